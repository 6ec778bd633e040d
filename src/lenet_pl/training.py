"""From a configuration to a run folder."""

import logging
import statistics
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.utilities import rank_zero_only
from rich.console import RenderableType

from lenet_pl.build import Parts, build
from lenet_pl.config import alone, check
from lenet_pl.console import ConsoleHandler, end_summary, say, start_summary
from lenet_pl.describe import layers
from lenet_pl.errors import ConfigError, UserError
from lenet_pl.files import write_json
from lenet_pl.metrics import wilson_interval
from lenet_pl.runs import display_path, git_state, package_versions


def train(cfg: DictConfig) -> float | None:
    """Train, keep the best weights, test them once, and leave a run folder.

    Args:
        cfg: as ``conf/config.yaml`` composes it.

    Returns:
        The validation accuracy of the best epoch, for sweepers; None of a debugging run.

    Raises:
        ConfigError: for a configuration that cannot work.
        DataError: if the data cannot be had.
        FloatingPointError: if the loss stops being a number.
    """
    if not logging.getLogger().handlers:  # in a notebook, where Hydra sets up no logging
        logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[ConsoleHandler()])
    folder = Path(cfg.run_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"run_dir={folder}: cannot write there ({error.strerror})") from error
    first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    with alone(folder) if first else nullcontext():
        return _train(cfg, folder, first)


def _train(cfg: DictConfig, folder: Path, first: bool) -> float | None:
    result, extendable = _blank(cfg), True
    try:
        check(cfg)
        if first:
            (folder / "result.json").unlink(missing_ok=True)  # of a run that goes on here
        parts = build(cfg)
        result |= _facts(parts)
        extendable = "steps" not in parts.classifier.settings
        if parts.trainer.is_global_zero:
            if (found := parts.data.prepared.findings()) is not None:
                write_json(folder / "cleaning.json", found)
            say(_summary(cfg, parts))
        _fit(cfg, parts, result)
        _evaluate(cfg, parts, result)
        result["status"] = "finished"
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        result["status"] = "interrupted" if stopped else "failed"
        result["error"] = "stopped before its end" if stopped else _one_line(error)
        raise
    finally:
        if first:
            write_json(folder / "result.json", result)
            say(end_summary(result, display_path(folder), extendable, not _in_sweep()))
    return result["metrics"].get("val/acc")


def _one_line(error: BaseException) -> str:
    expected = isinstance(error, (UserError, FloatingPointError))
    return " ".join(f"{'' if expected else type(error).__name__ + ': '}{error}".split())


def _fit(cfg: DictConfig, parts: Parts, result: dict[str, Any]) -> None:
    trainer, history = parts.trainer, parts.history
    started = time.perf_counter()
    try:
        trainer.fit(parts.classifier, parts.data, ckpt_path=cfg.ckpt_path, weights_only=True)
    finally:
        seconds = [row["seconds"] for row in history.rows]
        result["epochs"] = len(seconds)
        result["seconds"]["fit"] = time.perf_counter() - started
        result["seconds"]["epoch_median"] = statistics.median(seconds) if seconds else None
        if parts.best and parts.best.epoch:  # so far, should this be as far as it comes
            result["best_epoch"] = parts.best.epoch
            row = history.rows[parts.best.epoch - 1]
            result["metrics"] = {name: row[name] for name in ("val/acc", "val/loss")}
    result["stopped_early"] = len(seconds) < (trainer.max_epochs or 0)


def _evaluate(cfg: DictConfig, parts: Parts, result: dict[str, Any]) -> None:
    """Validate the best weights, so that what is reported is what is kept; then test them."""
    trainer, classifier, data, history, best = parts
    result["best_epoch"] = len(history.rows)  # the last weights are what there is, unless …
    if best and best.epoch:
        result["best_epoch"] = best.epoch
        checkpoint = torch.load(best.best_model_path, weights_only=True, map_location="cpu")
        classifier.load_state_dict(checkpoint["state_dict"])
    trainer.validate(classifier, data, verbose=False)
    metrics = _logged(trainer, "val")
    # in a sweep the test set is not looked at: it must not choose among the jobs
    if cfg.test and not _in_sweep():
        trainer.test(classifier, data, verbose=False)
        logits, labels = classifier.outputs["test"]
        correct = int((logits.argmax(1) == labels).sum())
        low, high = wilson_interval(correct, len(labels))
        metrics |= _logged(trainer, "test") | {"test/acc_low": low, "test/acc_high": high}
    if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # one batch measures nothing
        result["metrics"] = metrics


def _logged(trainer: Trainer, stage: str) -> dict[str, float]:
    names = (f"{stage}/acc", f"{stage}/loss")
    return {name: trainer.callback_metrics[name].item() for name in names}


def _in_sweep() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _blank(cfg: DictConfig) -> dict[str, Any]:
    """``result.json`` of a run of which nothing is known yet but what was asked for."""
    hydra = HydraConfig.initialized()
    return {
        "status": None,
        "error": None,
        "overrides": list(HydraConfig.get().overrides.task) if hydra else [],
        "seed": cfg.seed,
        "epochs": 0,
        "best_epoch": None,
        "stopped_early": False,
        "metrics": {},
        "seconds": {"fit": None, "epoch_median": None},
        "parameters": None,
        "device": None,
        "data": None,
        "versions": package_versions(),
        "git": git_state(),
    }


def _facts(parts: Parts) -> dict[str, Any]:
    return {
        "parameters": sum(p.numel() for p in parts.classifier.net.parameters()),
        "device": _device(parts.trainer),
        "data": parts.data.facts(),
    }


def _device(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    cpu = f"cpu ({threads} thread{'s' if threads > 1 else ''})"
    return cpu if device.type == "cpu" else str(device)


def _summary(cfg: DictConfig, parts: Parts) -> RenderableType:
    trainer, classifier, data, _, _ = parts
    notes = [f"data        {data.origin}", *data.prepared.notes()]
    notes.append(f"run folder  {display_path(Path(cfg.run_dir))}")
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and trainer.max_epochs is not None:
            fires = f"after {callback.patience} epochs in a row without a better one"
            if callback.patience >= trainer.max_epochs - 1:
                fires = f"has no time to: it waits for {callback.patience} epochs in vain"
            notes.append(f"early stop  on {callback.monitor}, {fires}")
    name = getattr(classifier.net, "name", type(classifier.net).__name__)
    return start_summary(
        title=f"{name} on {data.source.name} · {_device(trainer)} · seed {cfg.seed}",
        counts={
            name: torch.bincount(split.labels, minlength=len(data.classes)).tolist()
            for name, split in data.splits.items()
        },
        classes=data.classes,
        layers=layers(classifier.net, data.splits["train"].images[:1] / 255),
        notes=notes,
    )
