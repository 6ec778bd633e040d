"""From a configuration to a run folder."""

import logging
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.accelerators import CUDAAccelerator, MPSAccelerator, XLAAccelerator
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping

from lenet_pl import run
from lenet_pl.analysis.evaluate import wilson
from lenet_pl.callbacks.checkpoint import BestCheckpoint
from lenet_pl.callbacks.dashboard import Dashboard
from lenet_pl.callbacks.history import History
from lenet_pl.checks import check
from lenet_pl.classifier import Classifier
from lenet_pl.console import ConsoleHandler, end_summary, say, start_summary
from lenet_pl.data.datamodule import DigitsDataModule
from lenet_pl.errors import ConfigError
from lenet_pl.models.describe import layers

log = logging.getLogger(__name__)

ACCELERATORS = {"cuda": CUDAAccelerator, "mps": MPSAccelerator, "tpu": XLAAccelerator}

# its tips and its account of hooks are not about this run
logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
# true of every run here, and no reason to worry: the data lies in memory
warnings.filterwarnings("ignore", ".*does not have many workers.*")
warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
# a run that is taken up again writes into the folder it had
warnings.filterwarnings("ignore", ".*exists and is not empty.*")
# between Lightning and torch
warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")


def train(cfg: DictConfig) -> float:
    """Train, keep the best weights, test them once, and leave a run folder.

    Args:
        cfg: as ``conf/config.yaml`` composes it.

    Returns:
        The validation accuracy of the best epoch, for sweepers.

    Raises:
        ConfigError: for a configuration that cannot work.
        DataError: if the data cannot be had.
        FloatingPointError: if the loss stops being a number.
    """
    if not logging.getLogger().handlers:  # in a notebook, where Hydra sets up no logging
        logging.basicConfig(level=logging.INFO, handlers=[ConsoleHandler()])
    check(cfg)
    seed_everything(cfg.seed, workers=True, verbose=False)
    folder = Path(cfg.run_dir)
    folder.mkdir(parents=True, exist_ok=True)

    data, classifier = _build(cfg)
    history = History(folder / "metrics.csv")
    configured = list(instantiate(cfg.callbacks).values())
    dashboard = Dashboard(_hparams(cfg), OmegaConf.to_yaml(_without_hydra(cfg), resolve=True))
    trainer = _trainer(
        cfg,
        callbacks=[history, dashboard, *configured],
        logger=list(instantiate(cfg.logger).values()),
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in configured),
    )
    if trainer.is_global_zero:
        say(_summary(cfg, trainer, data, classifier))

    result = _result(cfg, data, classifier, _device(trainer))
    started = time.perf_counter()
    try:
        trainer.fit(classifier, data, ckpt_path=cfg.ckpt_path, weights_only=True)
        result["seconds"]["fit"] = time.perf_counter() - started
        _evaluate(cfg, trainer, data, classifier, result)
        result["status"] = "finished"
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        result["status"] = "interrupted" if stopped else "failed"
        result["error"] = " ".join(f"{type(error).__name__}: {error}".split())
        raise
    finally:
        if rows := history.rows:
            result["epochs"] = len(rows)
            result["seconds"]["epoch_median"] = statistics.median(row["seconds"] for row in rows)
        result["stopped_early"] = trainer.should_stop and len(rows) < (trainer.max_epochs or 0)
        if trainer.is_global_zero:
            run.write_result(folder, result)
            say(end_summary(result, _shown(folder)))
    return result["metrics"]["val/acc"]


def rehearse(cfg: DictConfig) -> None:
    """Build everything that a run builds and train nothing, to find what cannot work.

    Raises:
        ConfigError, DataError: as :func:`train` would.
    """
    _, classifier = _build(cfg)
    try:
        classifier.configure_optimizers()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer: {error}") from error
    _trainer(cfg, logger=False, enable_checkpointing=False)


def _build(cfg: DictConfig) -> tuple[DigitsDataModule, Classifier]:
    try:
        data: DigitsDataModule = instantiate(cfg.data)
        data.prepare_data()
        data.setup("fit")
        classifier: Classifier = instantiate(cfg.classifier, mean=data.mean, std=data.std)
    except InstantiationException as error:
        raise ConfigError(str(error)) from error
    classifier.example_input_array = data.splits["train"].images[:1] / 255
    if cfg.ckpt_path is not None:
        _check_fit(cfg.ckpt_path, classifier)
    return data, classifier


def _check_fit(path: str, classifier: Classifier) -> None:
    try:
        weights = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
        classifier.load_state_dict(weights)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"ckpt_path={path}: no checkpoint of this model and code: {reason}"
        ) from error


def _trainer(cfg: DictConfig, **parts: Any) -> Trainer:
    found = [name for name, kind in ACCELERATORS.items() if kind.is_available()]
    usable = ["auto", "cpu", *found, *(["gpu"] if {"cuda", "mps"} & {*found} else [])]
    if (wanted := cfg.trainer.accelerator) not in usable:
        raise ConfigError(
            f"trainer.accelerator={wanted}: not on this machine; choose from {', '.join(usable)}"
        )
    try:
        return instantiate(cfg.trainer, **parts)
    except InstantiationException as error:
        raise ConfigError(f"trainer: {error.__cause__ or error}") from error


def _evaluate(
    cfg: DictConfig,
    trainer: Trainer,
    data: DigitsDataModule,
    classifier: Classifier,
    result: dict[str, Any],
) -> None:
    """Validate the best weights, so that what is reported is what is kept; then test them."""
    best = trainer.checkpoint_callback
    result["best_epoch"] = trainer.current_epoch  # the last weights are what there is, unless …
    if isinstance(best, BestCheckpoint) and best.epoch:
        result["best_epoch"] = best.epoch
        checkpoint = torch.load(best.best_model_path, weights_only=True)
        classifier.load_state_dict(checkpoint["state_dict"])
    trainer.validate(classifier, data, verbose=False)
    metrics = {name: trainer.callback_metrics[name].item() for name in ("val/acc", "val/loss")}
    # in a sweep the test set is not looked at: it must not choose among the jobs
    if cfg.test and not _in_sweep():
        trainer.test(classifier, data, verbose=False)
        metrics |= {name: trainer.callback_metrics[name].item() for name in ("test/acc", "test/loss")}
        logits, labels = classifier.outputs["test"]
        correct = int((logits.argmax(1) == labels).sum())
        metrics["test/acc_low"], metrics["test/acc_high"] = wilson(correct, len(labels))
    result["metrics"] = metrics


def _in_sweep() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _without_hydra(cfg: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


def _hparams(cfg: DictConfig) -> dict[str, Any]:
    """The flat set for the HParams tab; of a class, its name."""
    values = OmegaConf.to_container(cfg.hparams, resolve=True)
    assert isinstance(values, dict)
    return {
        str(name): value.rsplit(".", 1)[-1] if isinstance(value, str) else value
        for name, value in values.items()
    }


def _summary(
    cfg: DictConfig, trainer: Trainer, data: DigitsDataModule, classifier: Classifier
) -> Any:
    counts = {
        name: torch.bincount(split.labels, minlength=len(data.classes)).tolist()
        for name, split in data.splits.items()
    }
    net = type(classifier.net).__name__
    notes = [f"run folder  {_shown(Path(cfg.run_dir))}"]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and trainer.max_epochs is not None:
            fires = f"after {callback.patience} epochs in a row without a better one"
            if callback.patience >= trainer.max_epochs:
                fires = f"cannot fire: patience {callback.patience} of {trainer.max_epochs} epochs"
            notes.append(f"early stop  on {callback.monitor}, {fires}")
    return start_summary(
        title=f"{net} on {data.source.name} · {_device(trainer)} · seed {cfg.seed}",
        origin=data.origin,
        counts=counts,
        classes=data.classes,
        layers=layers(classifier.net, classifier.example_input_array),
        notes=notes,
    )


def _device(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)


def _result(
    cfg: DictConfig, data: DigitsDataModule, classifier: Classifier, device: str
) -> dict[str, Any]:
    overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    return {
        "status": None,
        "error": None,
        "overrides": overrides,
        "seed": cfg.seed,
        "epochs": 0,
        "best_epoch": None,
        "stopped_early": False,
        "metrics": {},
        "seconds": {"fit": None, "epoch_median": None},
        "parameters": sum(p.numel() for p in classifier.net.parameters()),
        "device": device,
        "data": data.facts(),
        "versions": run.versions(),
        "git": run.git(),
    }


def _shown(folder: Path) -> Path:
    """The path as one would type it here."""
    folder = folder.absolute()
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
