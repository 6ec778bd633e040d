"""From a configuration to a run folder: check, build, fit, test, record."""

import statistics
import time
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import ExitStack, nullcontext
from math import inf
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate, to_absolute_path
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.loggers import Logger
from rich.console import RenderableType

from lenet_pl import config, runs
from lenet_pl.callbacks.checkpoint import BestAndLastCheckpoint
from lenet_pl.callbacks.history import EpochHistory
from lenet_pl.callbacks.loggers import RUN_ID, LoggedRun, close_loggers
from lenet_pl.callbacks.stopping import StoppedError, Stopping
from lenet_pl.classifier import Classifier
from lenet_pl.console import end_summary, layer_table, show, start_summary
from lenet_pl.data.datamodule import DigitsDataModule
from lenet_pl.errors import FAILED, ConfigError, UserError, VerificationError, one_line
from lenet_pl.files import display_path, replacing, write_json
from lenet_pl.metrics import wilson_interval
from lenet_pl.models.pixelnet import model_name
from lenet_pl.optim import planned_steps
from lenet_pl.processes import configure_process, device_name, in_sweep, is_main_process, requeue
from lenet_pl.records import read_checkpoint

# trains the jobs of a sweep instead of train_run; set by the sweep's Hydra callback
job_hook: Callable[[DictConfig], float | None] | None = None


class Parts(NamedTuple):
    """The objects that make up a run."""

    trainer: Trainer
    classifier: Classifier
    data: DigitsDataModule
    history: EpochHistory
    logged: LoggedRun
    stopping: Stopping
    best: BestAndLastCheckpoint | None  # None without checkpoints
    horizon: int | None  # optimizer steps in the schedule; None if it has no fixed length


def run(overrides: Sequence[str]) -> Path:
    """Train a single run from Python, as ``python train.py OVERRIDES`` does; return its folder.

    Raises ConfigError for what only the command line can do: ``find``, ``from``, ``resume``,
    ``sweep`` and options such as ``-m``.
    """
    for override in overrides:
        if override.startswith(("find=", "from=", "resume=", "sweep=", "-")):
            raise ConfigError(f"{override}: only on the command line")
    conf = str(config.conf_dir())
    with initialize_config_dir(version_base="1.3", config_dir=conf, job_name="train"):
        hydra: Any = GlobalHydra.instance().hydra
        job = hydra.run("config", train, list(overrides))
    return Path(job.hydra_cfg.hydra.runtime.output_dir)


def train(cfg: DictConfig) -> float | None:
    """Train, keep the best weights, test them once, and write a run folder.

    Returns the monitored metric of the best epoch, for sweepers; None with ``fast_dev_run``. Raises
    ConfigError if the configuration is invalid, DataError if the data cannot be loaded, and
    FloatingPointError if the loss becomes NaN or infinite.
    """
    return job_hook(cfg) if job_hook else train_run(cfg)


def train_run(cfg: DictConfig, cache: MutableMapping[Any, Any] | None = None) -> float | None:
    """Train one run, like :func:`train`; jobs of a sweep can reuse loaded data through a cache."""
    folder, main_process = Path(cfg.run_dir), is_main_process()
    parts = _prepared.pop(folder, None)
    with runs.lock_run(folder) if main_process else nullcontext(), ExitStack() as stack:
        result, started = _initial_result(cfg), False
        try:
            parts = parts or build(cfg, cache)
            stack.enter_context(parts.stopping.handling())
            parts.logged.open(parts.trainer)
            started = True
            result["parameters"] = sum(p.numel() for p in parts.classifier.net.parameters())
            result["device"] = device_name(parts.trainer)
            result["data"] = parts.data.facts()
            if main_process:
                for name in ("result.json", "val_predictions.npz"):  # outdated in a resumed run
                    (folder / name).unlink(missing_ok=True)
                if (report := parts.data.cleaning_report()) is not None:
                    write_json(folder / "cleaning.json", report)
                show(_start_summary(cfg, parts, result["limits"]))
            _fit(cfg, parts, result)
            _evaluate(cfg, parts, result)
            if cfg.repeat and main_process:
                result["repeats"] = runs.compare_with(Path(cfg.repeat), folder, result["metrics"])
        except (StoppedError, KeyboardInterrupt, SystemExit) as error:
            stopped = one_line(error) if isinstance(error, StoppedError) else "stopped"
            result |= {"status": "interrupted", "error": stopped}
            # Lightning kills all processes of a distributed run if one of the others fails
            raise SystemExit(FAILED if main_process else 0) from error
        except BaseException as error:
            expected = isinstance(error, UserError | FloatingPointError | VerificationError)
            prefix = "" if expected else f"{type(error).__name__}: "
            result |= {"status": "failed", "error": prefix + one_line(error)}
            raise
        finally:
            if main_process:
                # a run that is refused keeps the result of an earlier one in its folder
                if started or not (folder / "result.json").exists():
                    write_json(folder / "result.json", result)
                extendable = parts is None or parts.horizon is None
                show(end_summary(result, folder, runs.train_command(), extendable, not in_sweep()))
            close_loggers(result["error"] is None)
            if main_process and result["error"] == "stopped by SIGUSR1" and not in_sweep():
                requeue()
    if parts.stopping.received and in_sweep():  # too late for this job
        raise SystemExit(FAILED)
    return cast("float | None", result["metrics"].get(result["monitor"]))


# Runs built by prepare(), by folder, for train() to use: a single run is built before Hydra creates
# its folder, so that an invalid one leaves no trace.
_prepared: dict[Path, Parts] = {}


def prepare(cfg: DictConfig) -> None:
    """Build a run for :func:`train`, then create its folder; ConfigError if it cannot be used."""
    folder = Path(cfg.run_dir)
    runs.check_folder(folder, cfg.ckpt_path)
    parts = build(cfg)
    if is_main_process():
        runs.lock_run(folder).close()
    _prepared[folder] = parts


def build(cfg: DictConfig, cache: MutableMapping[Any, Any] | None = None) -> Parts:
    """Check the configuration, load the data, and build network, callbacks and trainer.

    ``cache`` is passed to :class:`DigitsDataModule`. Raises ConfigError or DataError.
    """
    config.check(cfg)
    for group in (*config.SEVERAL, *config.SINGLE):
        config.check_types(OmegaConf.to_container(cfg[group], resolve=True), group)
    configure_process()
    seed_everything(cfg.seed, workers=True, verbose=False)

    data: DigitsDataModule = _instantiate(cfg, "data", cache=cache)
    data.prepare_data()
    data.setup("fit")

    settings = config.resume_settings(cfg)
    cfg = config.fit_to_data(cfg, data.state_dict())
    classifier: Classifier = _instantiate(
        cfg if cfg.ckpt_path is None else runs.without_weights(cfg),
        "classifier",
        mean=data.mean,
        std=data.std,
        example=data.splits["train"].images[:1] / 255,
        settings=settings,
    )
    config.check_outputs(classifier, len(data.classes))

    stopping = Stopping(cfg.pause_after)
    history = EpochHistory(Path(cfg.run_dir) / "metrics.csv", config.monitored_metric(cfg))
    ids = _continue_loggers(cfg)
    resolved = cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))
    logged = LoggedRun(resolved, hparams(cfg), ids)
    callbacks = [stopping, history, logged, *_instantiate_all(cfg, "callbacks", Callback)]
    trainer: Trainer = _instantiate(
        cfg,
        "trainer",
        callbacks=callbacks,
        logger=_instantiate_all(cfg, "logger", Logger),
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
    )

    if horizon := config.check_optimizer(trainer, classifier, data):
        classifier.settings["steps"] = horizon
    if cfg.ckpt_path is not None:
        config.check_checkpoint(cfg, classifier.settings, classifier, data)
    best = next((c for c in callbacks if isinstance(c, BestAndLastCheckpoint)), None)
    return Parts(trainer, classifier, data, history, logged, stopping, best, horizon)


def _instantiate(cfg: DictConfig, key: str, **parts: Any) -> Any:
    try:
        # plain lists and mappings, since some end up in checkpoints
        return instantiate(cfg[key], **parts, _convert_="all")
    except InstantiationException as error:
        path = str(error).rpartition("full_key: ")[2] if "full_key: " in str(error) else key
        # conf/classifier refers to the groups that users know: net is ${model}
        path = path.replace("classifier.net", "model").replace("classifier.", "")
        path = path.replace("data.augment", "augment")
        raise ConfigError(config.with_key(path, error.__cause__ or error)) from error


def _instantiate_all(cfg: DictConfig, group: str, kind: type) -> list[Any]:
    """Build the parts of a group, without those removed by overrides such as ``logger.x=null``."""
    parts = {name: part for name, part in _instantiate(cfg, group).items() if part is not None}
    for name, part in parts.items():
        if not isinstance(part, kind):
            target = cfg[group][name]._target_
            raise ConfigError(f"{group}.{name}._target_={target}: must be a {kind.__name__}")
    return list(parts.values())


def _continue_loggers(cfg: DictConfig) -> dict[str, str]:
    """Let W&B and MLflow continue the runs of a resumed run folder, and return their ids."""
    if not runs.is_resumed(Path(cfg.run_dir), cfg.ckpt_path):
        return {}
    callbacks = read_checkpoint(Path(cfg.ckpt_path))["callbacks"]
    ids: dict[str, str] = callbacks.get("LoggedRun", {"ids": {}})["ids"]
    for node in filter(None, cfg.logger.values()):
        if (name := node._target_.rpartition(".")[2]) in ids:
            with open_dict(node):
                node[RUN_ID[name]] = ids[name]
    return ids


def hparams(cfg: DictConfig) -> dict[str, Any]:
    """The columns of TensorBoard's HParams tab; a class is replaced with its name."""
    values = cast("dict[str, Any]", OmegaConf.to_container(cfg.hparams, resolve=True))
    for name, value in values.items():
        if isinstance(value, str) and value.replace(".", "_").isidentifier():
            values[name] = value.rpartition(".")[2]
    return values


def _fit(cfg: DictConfig, parts: Parts, result: dict[str, Any]) -> None:
    """Train, and record the finished epochs even if training is interrupted."""
    trainer, started = parts.trainer, time.perf_counter()
    parts.stopping.mask(blocked=trainer.strategy.launcher is not None)
    try:
        # hydra.job.chdir changes the current folder
        ckpt_path = cfg.ckpt_path and to_absolute_path(cfg.ckpt_path)
        trainer.fit(parts.classifier, parts.data, ckpt_path=ckpt_path, weights_only=True)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        if cast(Any, trainer)._checkpoint_connector._loaded_checkpoint:  # until it is restored
            reason = f"{type(error).__name__}: {one_line(error, 30)}"
            raise ConfigError(f"ckpt_path={cfg.ckpt_path}: damaged checkpoint: {reason}") from error
        raise
    finally:
        rows = parts.history.rows
        seconds = [row["seconds"] for row in rows]
        result["epochs"] = len(rows)
        result["seconds"]["fit"] = time.perf_counter() - started
        result["seconds"]["epoch_median"] = statistics.median(seconds) if seconds else None
        if parts.best and parts.best.epoch:
            row = rows[parts.best.epoch - 1]
            result["best_epoch"] = parts.best.epoch
            result["metrics"] = {name: row[name] for name in row if name.startswith("val/")}
    unfinished = len(rows) < (trainer.max_epochs or 0)
    early = any(callback.stopped_epoch for callback in trainer.early_stopping_callbacks)
    paused = unfinished and not early and len(rows) >= (cfg.pause_after or inf)
    result["stopped_early"] = unfinished and not paused
    result["status"] = "paused" if paused else "finished"  # unless the evaluation fails


def _evaluate(cfg: DictConfig, parts: Parts, result: dict[str, Any]) -> None:
    """Validate the best weights, so that the metrics are those of the saved weights; test them."""
    trainer, classifier, data = parts.trainer, parts.classifier, parts.data
    debugging = bool(cast(Any, trainer).fast_dev_run)  # the metrics of a batch are meaningless
    # without checkpoints, the last epoch
    best = result["best_epoch"] = result["best_epoch"] or result["epochs"]
    if parts.best and parts.best.epoch:
        checkpoint = torch.load(parts.best.best_model_path, weights_only=True, map_location="cpu")
        classifier.load_state_dict(checkpoint["state_dict"])
    trainer.validate(classifier, data, verbose=False)
    metrics = _logged(parts, "val")
    if not debugging:
        _verify(parts, best, metrics)
        if is_main_process():
            _write_predictions(Path(cfg.run_dir) / "val_predictions.npz", parts)
    # the jobs of a sweep must not be selected by test accuracy
    if cfg.test and not in_sweep() and result["status"] == "finished":
        trainer.test(classifier, data, verbose=False)
        logits, labels = classifier.outputs["test"]
        low, high = wilson_interval(int((logits.argmax(1) == labels).sum()), len(labels))
        metrics |= _logged(parts, "test") | {"test/acc_low": low, "test/acc_high": high}
    if not debugging:
        result["metrics"] = metrics
        parts.logged.log_result(trainer, metrics, best)


def _verify(parts: Parts, best: int, metrics: dict[str, float]) -> None:
    """Raise VerificationError if the saved weights do not reproduce the best epoch's figures."""
    # exact on the CPU, unless the epoch was computed before a resume, perhaps elsewhere
    on_cpu = parts.trainer.strategy.root_device.type == "cpu"
    exact = on_cpu and best > parts.history.restored
    images = len(parts.classifier.outputs["val"][1])
    tolerances = {"val/loss": 1e-4, "val/acc": 1.5 / images}
    for name, now in metrics.items():
        before = parts.history.rows[best - 1].get(name, now)  # it may be newer than the run
        tolerance = 0 if exact else tolerances.get(name, inf) * max(1, abs(before))
        if not abs(now - before) <= tolerance:
            raise VerificationError(
                f"{name} of epoch {best} was {before:.6g}, but is {now:.6g} with the saved weights"
            )


def _write_predictions(path: Path, parts: Parts) -> None:
    """Write the predictions for the validation images, or the first ones if batches are limited."""
    logits, labels = parts.classifier.outputs["val"]
    arrays: Any = {
        "index": parts.data.indices["val"][: len(labels)],
        "label": labels,
        "prediction": logits.argmax(1),
        "confidence": logits.softmax(1).amax(1).clamp_max(1),  # rounding errors can exceed 1
    }
    with replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **{name: array.numpy() for name, array in arrays.items()})


def _logged(parts: Parts, stage: str) -> dict[str, float]:
    """The metrics over all images of a split, or over as many batches as requested."""
    trainer, data = parts.trainer, parts.data
    batches = sum(trainer.num_val_batches if stage == "val" else trainer.num_test_batches)
    wanted = min(len(data.splits[stage]), int(batches) * data.eval_batch_size)
    if (images := len(parts.classifier.outputs[stage][1])) != wanted:
        raise VerificationError(f"{stage}: {images:,} images were evaluated, not {wanted:,}")
    metrics = trainer.callback_metrics.items()
    return {name: value.item() for name, value in metrics if name.startswith(f"{stage}/")}


def _initial_result(cfg: DictConfig) -> dict[str, Any]:
    """``result.json`` before anything has been built."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    # what makes an epoch shorter than its split
    limits = [x for x in map(str, cfg.trainer) if x.startswith(("limit_", "overfit_"))]
    return {
        "name": cfg.name,
        "status": None,
        "error": None,
        "overrides": list(overrides),
        "seed": cfg.seed,
        "epochs": 0,
        "best_epoch": None,
        "stopped_early": False,
        "limits": {name: cfg.trainer[name] for name in limits if cfg.trainer[name]},
        "monitor": config.monitored_metric(cfg),
        "metrics": {},
        "seconds": {"fit": None, "epoch_median": None},
        "parameters": None,
        "device": None,
        "data": None,
        "versions": runs.package_versions(),
        "git": runs.git_state(),
    }


def _start_summary(cfg: DictConfig, parts: Parts, limits: dict[str, Any]) -> RenderableType:
    trainer, net, data = parts.trainer, parts.classifier.net, parts.data
    epochs = trainer.max_epochs or 1
    steps = planned_steps(trainer, len(data.splits["train"]), data.batch_size)
    notes = [f"data        {data.origin}", *data.notes()]
    notes += [f"limited     trainer.{name}={value}" for name, value in limits.items()]
    notes.append(f"steps       {steps // epochs:,} per epoch, {steps:,} in all")
    notes.append(f"run folder  {display_path(Path(cfg.run_dir))}")
    for callback in trainer.early_stopping_callbacks:
        text = f"after {(patience := callback.patience)} epochs without improvement"
        if patience >= epochs - 1:
            text = f"cannot trigger: patience {patience}, {epochs} epoch{'s' if epochs > 1 else ''}"
        notes.append(f"early stop  on {callback.monitor}, {text}")
    title = f"{model_name(net)} on {data.source.name} · {device_name(trainer)} · seed {cfg.seed}"
    title += f" · {cfg.name}" if cfg.name else ""
    counts = {
        name: torch.bincount(split.labels, minlength=len(data.classes)).tolist()
        for name, split in data.splits.items()
    }
    layers = layer_table(net, data.splits["train"].images[:1] / 255)
    return start_summary(title, counts, data.classes, layers, notes)
