"""What stands around each job of a sweep."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from lenet_pl.console import console
from lenet_pl.errors import fail
from lenet_pl.files import display_path
from lenet_pl.sweeps.hydra_callback import Sweep
from lenet_pl.sweeps.progress import label, read_result
from lenet_pl.sweeps.results import parameters

log = logging.getLogger(__name__)

KEPT = {".hydra", "train.log"}  # of a job that begins anew


def run_job(cfg: DictConfig, train: Callable[[DictConfig], float | None]) -> float | None:
    """Run a job of a sweep unless it has been: its score, or None if it failed.

    A job that was cut off goes on from its last checkpoint; one that failed begins anew. Why one
    failed stands in its ``result.json``, and the others go on.
    """
    if Sweep.current is None:  # the callback was taken out
        return train(cfg)
    plan, folder = Sweep.current.plan, Path(cfg.run_dir)
    overrides = list(HydraConfig.get().overrides.task)
    asked = parameters(overrides)
    if plan.before.get(folder.name, asked) != asked:
        fail(
            f"{display_path(folder)}: holds a job of another sweep; choose another hydra.sweep.dir"
        )
    result = read_result(folder)
    if result and result["status"] == "finished":
        return result["metrics"].get("val/acc")
    last = folder / "checkpoints" / "last.ckpt"
    if last.is_file() and not (result and result["status"] == "failed"):
        cfg.ckpt_path = str(last)
    else:
        _clear(folder)
    cfg.label = label(plan, overrides)
    if plan.parallel and cfg.callbacks and "progress" in cfg.callbacks:
        cfg.callbacks.progress = None  # one bar to a terminal
    _add_columns(cfg, plan.varied)
    try:
        return train(cfg)
    except Exception:
        log.info("failed", exc_info=True)  # into the log file; result.json has the one line
        return None
    except SystemExit:  # Lightning's answer to Ctrl-C and other signals
        if not plan.parallel:
            console.print("\nstopped; the same command goes on, with", end=" ")
            again = f"hydra.sweep.dir={display_path(plan.folder)}"
            console.print(again, markup=False, soft_wrap=True)
        raise


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _add_columns(cfg: DictConfig, varied: tuple[str, ...]) -> None:
    """Have TensorBoard's HParams tab show everything that varied."""
    columns = str(OmegaConf.to_container(cfg.hparams))
    with open_dict(cfg.hparams):
        for key in varied:
            value = OmegaConf.select(cfg, key)
            if f"${{{key}}}" not in columns and isinstance(value, str | int | float | bool):
                cfg.hparams[key.replace(".", "_")] = value
