"""The learning-rate finder: trains for some steps while the learning rate grows exponentially."""

import io
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr
from math import inf, isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.tuner.tuning import Tuner
from rich.text import Text

from lenet_pl import plots
from lenet_pl.console import console
from lenet_pl.errors import ConfigError
from lenet_pl.files import display_path, write_bytes
from lenet_pl.records import override_key
from lenet_pl.rules import show
from lenet_pl.runs import check_folder, lock_run, train_command
from lenet_pl.training import build

BETA = 0.98  # of Lightning's moving average of the loss
FALL = 0.95  # the lowest loss must be below this fraction of the losses before and after it


def find_lr(cfg: DictConfig, overrides: Sequence[str], **kwargs: Any) -> None:
    """Suggest a value for ``optimizer.lr``; write ``learning_rate.png`` into the run folder.

    The network, data and optimizer are those of the run; callbacks, loggers and schedule are not
    used. ``overrides`` are the run's, ``kwargs`` those of Lightning's ``Tuner.lr_find``. Raises
    ConfigError if such a run cannot be searched, or if :func:`suggestion` has none.
    """
    if kwargs["min_lr"] >= kwargs["max_lr"]:
        raise ConfigError(f"find.min_lr={kwargs['min_lr']:g}: must be below find.max_lr")
    for key in ("ckpt_path", "repeat", "trainer.fast_dev_run"):
        if value := OmegaConf.select(cfg, key):
            raise ConfigError(f"{key}={show(value)}: cannot be combined with find=lr")
    if (batches := cfg.trainer.accumulate_grad_batches) > 1:
        raise ConfigError(
            f"trainer.accumulate_grad_batches={batches}: must be 1 with find=lr; use a larger "
            "data.batch_size"
        )
    check_folder(folder := Path(cfg.run_dir), None)
    cfg = cfg.copy()
    with TemporaryDirectory() as temporary, open_dict(cfg):
        del cfg.find
        cfg.callbacks, cfg.logger, cfg.scheduler = {}, {}, {}
        if cfg.classifier.pop("steps_per_execution", None):  # the loss of every step is needed
            cfg.classifier._target_ = "lenet_pl.classifier.Classifier"
        epochs = kwargs["num_training"]  # an epoch has at least one step
        # the tuner saves the initial weights in the root folder
        cfg.trainer.update(max_epochs=epochs, default_root_dir=temporary, detect_anomaly=False)
        parts = build(cfg)
        if not isinstance(parts.trainer.strategy, SingleDeviceStrategy):
            raise ConfigError("trainer.strategy: must be auto, with one device, for find=lr")
        # Lightning's progress bar is written to standard error
        with nullcontext() if console.is_terminal else redirect_stderr(io.StringIO()):
            tuner = Tuner(parts.trainer)
            search: Any = tuner.lr_find(parts.classifier, parts.data, update_attr=False, **kwargs)
            print(file=sys.stderr, flush=True)  # the bar does not end its line
    rates, losses = search.results["lr"], unbiased(search.results["loss"])
    lr = suggestion(rates, losses)
    with lock_run(folder):
        figure = plots.learning_rate_search(rates, losses, lr)
        write_bytes(folder / "learning_rate.png", plots.png(figure))
    own = [x for x in overrides if not f"{override_key(x)}.".startswith(("find.", "optimizer.lr."))]
    for name, text in (
        ("learning rate", f"{lr:.2g}, a tenth of the one with the lowest loss"),
        ("figure", str(display_path(folder / "learning_rate.png"))),
        ("train", f"{train_command()} {shlex.join([*own, f'optimizer.lr={lr:.2g}'])}"),
    ):
        console.print(Text(f"{name:<15} {text}", style="bold"), soft_wrap=True)


def unbiased(losses: Sequence[float]) -> list[float]:
    """Correct the bias of Lightning's moving average, which counts one step too many."""
    return [x * (1 - BETA ** (n + 1)) / (1 - BETA**n) for n, x in enumerate(losses, start=1)]


def suggestion(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return a tenth of the learning rate with the lowest loss; losses are moving averages.

    Lightning's suggestion, the steepest descent, differs by orders of magnitude between seeds. The
    method is from L. N. Smith, "Cyclical learning rates for training neural networks", WACV 2017,
    section 3.3, the factor from fastai's ``lr_find``. Raises ConfigError if the loss does not fall
    and rise again.
    """
    finite = [(loss, rate) for loss, rate in zip(losses, rates, strict=True) if isfinite(loss)]
    lowest, rate = min(finite, default=(inf, 0.0))
    if not lowest <= FALL * losses[len(losses) // 10]:  # which may be NaN
        raise ConfigError(
            "find: the loss does not fall; try a larger find.num_training or a smaller find.min_lr"
        )
    if losses[-1] < lowest / FALL:
        raise ConfigError(
            f"find.max_lr={rates[-1]:.2g}: the loss has not risen again; increase find.max_lr"
        )
    return rate / 10
