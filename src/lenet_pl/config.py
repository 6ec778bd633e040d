"""Validation of a configuration, and Hydra's errors as one line."""

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from lenet_pl.errors import ConfigError, UserError, fail

Rule = tuple[str, Callable[[Any], bool]]


def whole(low: int, high: float = float("inf")) -> Rule:
    """A whole number in a range that includes its ends."""
    to = f"from {low} to {high}" if high < float("inf") else f"from {low} on"
    return f"a whole number {to}", lambda x: type(x) is int and low <= x <= high


def positive() -> Rule:
    return "a number above 0", lambda x: type(x) in (int, float) and 0 < x < float("inf")


def share() -> Rule:
    return "a number from 0 to below 1", lambda x: type(x) in (int, float) and 0 <= x < 1


def not_negative() -> Rule:
    return "a number from 0 on", lambda x: type(x) in (int, float) and 0 <= x < float("inf")


def one_of(*choices: Any) -> Rule:
    """One of some values, of the same type too."""
    words = ", ".join(str(choice).lower() for choice in choices)
    return f"one of {words}", lambda x: any(x == y and type(x) is type(y) for y in choices)


def number_or_share() -> Rule:
    """A number of images, or a share of them."""
    _, is_number = positive()
    return (
        "a whole number from 1 on, or a share between 0 and 1",
        lambda x: is_number(x) and (type(x) is int or x < 1),
    )


def ratios() -> Rule:
    """Of train, validation and test."""
    _, is_positive = positive()
    return (
        "three numbers above 0, for train, validation and test, as in [7,2,1]",
        lambda x: isinstance(x, Sequence) and len(x) == 3 and all(map(is_positive, x)),
    )


def at_least_1() -> Rule:
    return "a number from 1 on", lambda x: type(x) in (int, float) and 1 <= x < float("inf")


def each(rule: Rule) -> Rule:
    meaning, holds = rule
    return f"a list, each {meaning}", lambda x: isinstance(x, ListConfig) and all(map(holds, x))


def unset_or(rule: Rule) -> Rule:
    meaning, holds = rule
    return f"null or {meaning}", lambda x: x is None or holds(x)


RULES: dict[str, Rule] = {
    "seed": whole(0, 2**32 - 1),
    "data.batch_size": whole(1),
    "data.eval_batch_size": whole(1),
    "data.val_size": number_or_share(),
    "data.split": unset_or(ratios()),
    "data.split_seed": whole(0),
    "data.fraction": (
        "a number above 0, up to 1",
        lambda x: type(x) in (int, float) and 0 < x <= 1,
    ),
    "data.augment_until": (
        "a number from 0 to 1",
        lambda x: type(x) in (int, float) and 0 <= x <= 1,
    ),
    "data.normalise": one_of("standardise", "scale", "none"),
    "data.clean": one_of(True, False),
    "data.suspect_folds": (
        "0, or a whole number from 2 to 20",
        lambda x: type(x) is int and x != 1 and 0 <= x <= 20,
    ),
    "data.on_error": one_of("skip", "stop"),
    "data.source.invert": one_of("auto", True, False),
    "data.source.centre": one_of("auto", True, False),
    "model.num_classes": whole(2),
    "model.hidden": each(whole(1)),
    "model.hidden_size": whole(1),
    "model.num_layers": whole(1),
    "model.dropout": share(),
    "model.image_size": unset_or(whole(1)),
    "loss.label_smoothing": share(),
    "optimizer.lr": positive(),
    "optimizer.momentum": share(),
    "optimizer.betas": each(share()),
    "optimizer.iterations": whole(1),
    "optimizer.weight_decay": not_negative(),
    "scheduler.warmup": share(),
    "scheduler.div_factor": at_least_1(),
    "scheduler.final_div_factor": at_least_1(),
    "scheduler.final": share(),
    "scheduler.factor": share(),
    "scheduler.patience": whole(0),
    "classifier.decay_biases": one_of(True, False),
    "classifier.steps_per_execution": whole(1),
    "classifier.cuda_graph": one_of(True, False),
    "trainer.max_epochs": whole(1),
    "trainer.accumulate_grad_batches": whole(1),
    "trainer.gradient_clip_val": unset_or(positive()),
    "trainer.limit_train_batches": unset_or(positive()),
    "trainer.limit_val_batches": unset_or(positive()),
    "trainer.limit_test_batches": unset_or(positive()),
    "callbacks.early_stopping.patience": whole(1),
    "callbacks.average.decay": unset_or(share()),
    "callbacks.average.start": share(),
    "callbacks.finetune.unfreeze_epoch": whole(2),
    "callbacks.finetune.lr_factor": positive(),
}


def conf() -> Path:
    """The folder of the configuration: of the checkout, or what was installed with the package."""
    here = Path(__file__).parent
    return next(path for path in (here / "conf", here.parents[1] / "conf") if path.is_dir())


def explain(error: Exception) -> str | None:
    """One line for what Hydra or OmegaConf says of an override, with the choices there are."""
    if isinstance(error, MissingConfigException):
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        # of one among several, as in augment=[affine,noise], Hydra does not say the options
        options = error.options or sorted(path.stem for path in (conf() / group).glob("*.yaml"))
        return f"{group}={name}: no such choice; choose from {', '.join(options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read as an override, which is key=value"
    if "Config group override" in str(error):  # Hydra does not say which
        words = [word for word in sys.argv if word.endswith("=null")]
        group = next((word[:-5] for word in words if (conf() / word[:-5]).is_dir()), "group")
        options = sorted(path.stem for path in (conf() / group).glob("*.yaml"))
        return f"{group}=null: must be one of {', '.join(options)}"
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and isinstance(cause.parent_node, DictConfig):
        known = [str(key) for key in cause.parent_node if key != "hydra"]
        there = OmegaConf.to_container(cause.parent_node)
        assert isinstance(there, dict)
        groups = [key for key in known if (conf() / key).is_dir() and cause.key in there[key]]
        below = [f"{group}.{cause.key}" for group in groups]
        near = below or get_close_matches(str(cause.key), known, n=3) or known
        return f"{cause.full_key}: no such key; there is {', '.join(near)}"
    return " ".join(f"{error} {cause or ''}".split())


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

    Of a sweep, :class:`lenet_pl.sweeps.hydra_callback.Sweep` checks the jobs.
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
        except UserError as error:
            fail(str(error))


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
