"""What is checked before anything slow, and before a run folder is made."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from lenet_pl.errors import ConfigError
from lenet_pl.mistakes import MISTAKES, give_up
from lenet_pl.rules import RULES

SINGLE = ("data", "model", "loss", "optimizer", "scheduler", "classifier", "trainer")
MONITORED = {"val/acc": "max", "val/loss": "min"}  # and what is better


def check(cfg: DictConfig) -> None:
    """Values that no run can work with; needs no torch.

    Raises:
        ConfigError: for the first such value.
    """
    for key, (meaning, holds) in RULES.items():
        if _has(cfg, key) and not holds(value := OmegaConf.select(cfg, key)):
            raise ConfigError(f"{key}={value}: must be {meaning}")
    _check_parts(cfg)
    parts = {f"callbacks.{name}": part for name, part in (cfg.callbacks or {}).items()}
    for name, part in {**parts, "scheduler": cfg.scheduler}.items():
        monitor = part.get("monitor") if part else None
        if monitor is not None and monitor not in MONITORED:
            raise ConfigError(
                f"{name}.monitor={monitor}: only validation decides; "
                f"choose from {', '.join(MONITORED)}"
            )
        mode = part.get("mode") if part else None
        if monitor is not None and mode in ("min", "max") and mode != MONITORED[monitor]:
            raise ConfigError(f"{name}.mode={mode}: of {monitor} the {MONITORED[monitor]} is best")
    _check_epochs(cfg)
    if cfg.ckpt_path is not None and not Path(str(cfg.ckpt_path)).is_file():
        raise ConfigError(f"ckpt_path={cfg.ckpt_path}: there is no such file")


def _check_parts(cfg: DictConfig) -> None:
    """What an experiment sets of a choice that was then overridden is not the rest of one."""
    for group in SINGLE:
        if cfg[group] and "_target_" not in cfg[group]:
            left = ", ".join(f"~{group}.{key}" for key in cfg[group])
            raise ConfigError(f"{group}: was chosen anew, but {left[1:]} is set; add {left}")
    for group in ("augment", "callbacks", "logger"):
        for name, part in (cfg[group] or {}).items():
            if part is not None and not (isinstance(part, DictConfig) and "_target_" in part):
                raise ConfigError(
                    f"{group}.{name}={part}: must be null, which leaves it out, or a mapping with "
                    "_target_"
                )


def _check_epochs(cfg: DictConfig) -> None:
    """What happens at an epoch must have one."""
    if (steps := cfg.trainer.get("max_steps", -1)) != -1:
        raise ConfigError(
            f"trainer.max_steps={steps}: must be left out; a run is made of whole epochs, which "
            "are validated, and trainer.max_epochs counts them"
        )
    unfreeze = OmegaConf.select(cfg, "callbacks.finetune.unfreeze_epoch") or 0
    if unfreeze > cfg.trainer.max_epochs and not cfg.trainer.fast_dev_run:
        raise ConfigError(
            f"callbacks.finetune.unfreeze_epoch={unfreeze}: the run has trainer.max_epochs="
            f"{cfg.trainer.max_epochs}"
        )
    every = cfg.trainer.get("check_val_every_n_epoch", 1)
    if "monitor" in cfg.scheduler and every != 1:
        raise ConfigError(
            f"trainer.check_val_every_n_epoch={every}: scheduler.monitor={cfg.scheduler.monitor} "
            "is looked at after every epoch"
        )


def check_choices(choices: DictConfig) -> None:
    """Hydra would join the options of ``model=[lenet,mlp]`` into one that is neither.

    Args:
        choices: the option of each group; a group of which several were chosen is not there.

    Raises:
        ConfigError: for several options of a group that is one thing.
    """
    for group in SINGLE:
        if group not in choices:
            raise ConfigError(
                f"{group}: takes one option; for a sweep over several: -m {group}=A,B"
            )


def _has(cfg: DictConfig, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    return isinstance(node, DictConfig) and name in node


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep the run folder to this process.

    Raises:
        ConfigError: if another one trains there.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"hydra.run.dir={folder}: a run is going on there") from None
    except OSError as error:
        raise ConfigError(
            f"hydra.run.dir={folder}: cannot write there ({error.strerror})"
        ) from error
    try:
        yield
    finally:
        with suppress(PermissionError):  # Windows removes it once it is let go
            (folder / ".lock").unlink(missing_ok=True)
        lock.release()


class Preflight(Callback):
    """A Hydra callback: a mistake ends a single run before it leaves a folder behind.

    Of a sweep, :class:`lenet_pl.sweeping.callback.Sweep` checks the jobs.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        cfg = config.copy()
        with open_dict(cfg):
            cfg.run_dir = "."  # not known yet, and nothing is written
            del cfg["hydra"]
        try:
            check_choices(config.hydra.runtime.choices)
            check(cfg)
            from pytorch_lightning.utilities import rank_zero_only

            from lenet_pl.build import rehearse  # imports torch

            rehearse(cfg)
            _make_folder(config.hydra.run.dir, cfg.ckpt_path)
            if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
                with alone(Path(config.hydra.run.dir)):  # before Hydra writes there
                    pass
        except MISTAKES as error:
            give_up(str(error))


def _make_folder(path: str, ckpt_path: str | None) -> None:
    """Make the run folder; it may hold a run only if that one goes on."""
    folder = Path(path).absolute()
    goes_on = ckpt_path is not None and folder in Path(ckpt_path).absolute().parents
    if not goes_on and ((folder / "result.json").exists() or (folder / "checkpoints").exists()):
        raise ConfigError(
            f"hydra.run.dir={path}: holds a run; choose another folder, or resume={path}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(
            f"hydra.run.dir={path}: cannot write there ({error.strerror}); choose another folder"
        ) from error
