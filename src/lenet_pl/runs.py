"""Run folders: find, open, resume and repeat them; package versions and git state.

Opening a run needs neither ``conf/`` nor the command that trained it; an unusable folder raises
ConfigError. This module imports torch only to open a run, so ``resume=RUN`` is resolved quickly.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from itertools import starmap, zip_longest
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, cast

from filelock import FileLock, Timeout
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig, OmegaConf

from lenet_pl import __version__, records, trust
from lenet_pl.config import check_values, fit_to_data, monitored_metric
from lenet_pl.errors import ConfigError, DataError
from lenet_pl.files import display_path, quoted, shell_override
from lenet_pl.rules import gain

if TYPE_CHECKING:  # Lightning takes seconds to import, and predictions do not need it
    from torch import nn

    from lenet_pl.data.datamodule import DigitsDataModule
    from lenet_pl.models.pixelnet import PixelNet

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "omegaconf")
RUN_HELP = "a run folder, a checkpoint in it, or latest"  # help of the argument RUN
INTERACTIVE = ("bash", "interactive")  # names of Slurm jobs in which commands are typed
LAST = "checkpoints/last.ckpt"  # in a run folder
POOLED = "pooled with the official test set: not comparable with published results"
# files that a resumed run writes without reading them first
WRITTEN = [".hydra/config.yaml", "train.log", "metrics.csv", "best.pth", "checkpoints/best.ckpt"]
WRITTEN += ["val_predictions.npz"]


def find_run(name: str) -> Path:
    """Find the run folder, given its path, a checkpoint or ``best.pth`` in it, or ``latest``."""
    if name == "latest":
        runs = [(path.stat().st_mtime_ns, path) for path in Path("outputs/runs").glob("*/*/.hydra")]
        if not runs:
            raise ConfigError("latest: outputs/runs holds no run")
        return max(runs)[1].parent
    path = Path(name)
    if path.name == "best.pth":
        return path.parent
    return Path(os.path.normpath(path / "../..")) if path.suffix == ".ckpt" else path


def read_outcome(folder: Path) -> dict[str, Any]:
    """The content of ``result.json``, with the monitored metric.

    Before the run has ended, the status is ``unfinished``, and the best epoch is that of
    ``metrics.csv``.
    """
    result = records.read_result(folder)
    if not result.get("monitor"):
        result["monitor"] = monitored_metric(records.read_config(folder) or OmegaConf.create())
    if "status" not in result:
        rows = records.read_metrics(folder)
        best = best_row(rows, result["monitor"])
        result |= {"status": "unfinished", "epochs": len(rows)}
        result["best_epoch"] = int(best["epoch"]) if best else None
        result["metrics"] = {key: best[key] for key in best if key.startswith("val/")}
    return result


def best_row(rows: Iterable[dict[str, float]], monitor: str) -> dict[str, float]:
    """The row with the best value of a metric, the first of equals; empty without validation."""
    validated = (row for row in rows if monitor in row)
    return max(validated, key=lambda row: gain(monitor, row[monitor]), default={})


def resume_arguments(arguments: list[str]) -> list[str]:
    """Replace ``resume=RUN`` and ``from=RUN`` by overrides; choose the folder of a Slurm job.

    ``resume`` continues a run in its own folder, or starts it again there if no epoch was finished;
    ``from`` repeats it in a new folder. The run's own overrides come first, so that new ones take
    precedence. Raises SystemExit(0) if a restarted Slurm job had finished this run.
    """
    requested = [argument for argument in arguments if argument.startswith(("resume=", "from="))]
    if not requested:
        return _slurm_arguments(arguments, arguments)
    given = [argument for argument in arguments if argument not in requested]
    key, _, name = requested[-1].partition("=")
    run = find_run(name)
    if not (file := run / ".hydra" / "overrides.yaml").exists():
        raise ConfigError(f"{key}={name}: not a run folder ({file} is missing)")
    own = records.read_overrides(run)
    if key == "resume":
        added = _continue(run, given)
    elif records.read_metrics(run):
        added = [f"repeat={quoted(run.absolute())}"]
    else:
        raise ConfigError(f"from={run}: no finished epoch to compare with")
    replaced = {"pause_after", *map(records.override_key, [*added, *given])}
    replaced |= {"name"} if key == "from" else set()  # of the run that is repeated
    # either classifier resumes the other's checkpoints, without its options
    if "classifier" in replaced:
        replaced.add("classifier.steps_per_execution")
    own = [override for override in own if records.override_key(override) not in replaced]
    trust.check_overrides(own, run)
    # a run that started from another run's checkpoint starts from it again
    checkpoint = Path(str(_values(own).get("ckpt_path", "")))
    if checkpoint.absolute().is_relative_to(run.absolute()):
        own = [override for override in own if records.override_key(override) != "ckpt_path"]
    result = [*own, *added, *given]
    return result if key == "resume" else _slurm_arguments(result, given)


def _continue(run: Path, given: list[str]) -> list[str]:
    """The overrides that continue a run, or start it again if no epoch was finished."""
    if records.hydra_mode(run) == "MULTIRUN":  # results written there would not match the sweep
        raise ConfigError(
            f"resume={run}: a job of a sweep; repeat the sweep's command with "
            f"{shell_override('hydra.sweep.dir', run.parent)}, or train longer in a new folder "
            f"with the job's overrides and {shell_override('ckpt_path', run / LAST)}"
        )
    for path in (run / name for name in WRITTEN):  # writing to a pipe would block
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: not a regular file")
    result, checkpoint = records.read_result(run), _from_checkpoint(run)
    epochs = _values(given).get("trainer.max_epochs", 0)
    longer = not isinstance(epochs, int) or epochs > result.get("epochs", 0)
    if result.get("status") == "finished" and not (longer and checkpoint):
        raise ConfigError(
            f"resume={run}: finished after {result['epochs']} epochs; give a larger "
            "trainer.max_epochs to train longer"
        )
    return [*checkpoint, f"hydra.run.dir={quoted(run)}"]


def _from_checkpoint(folder: Path) -> list[str]:
    """The override that continues from the last checkpoint in a folder, if there is one."""
    return [f"ckpt_path={quoted(folder / LAST)}"] if (folder / LAST).exists() else []


def _values(arguments: list[str]) -> dict[str, Any]:
    """The values of the overrides among command-line arguments, by key."""
    overrides = get_args_parser().parse_intermixed_args(arguments).overrides
    return {x.key_or_group: x.value() for x in map(trust.parse_override, overrides)}


def _slurm_arguments(arguments: list[str], given: list[str]) -> list[str]:
    """In a Slurm batch job, name the run folder after job and command; continue after a restart."""
    job = os.environ.get("SLURM_JOB_ID")
    terminal = sys.stdin is not None and sys.stdin.isatty()
    if not job or terminal or os.environ.get("SLURM_JOB_NAME") in INTERACTIVE:
        return arguments
    values = _values(given)
    if {"-m", "--multirun"} & {*given} or {"hydra.mode", "sweep"} & values.keys():
        return arguments
    digest = sha256("\0".join(arguments).encode()).hexdigest()[:8]
    folder = Path(str(values.get("hydra.run.dir", f"outputs/runs/slurm/{job}-{digest}")))
    if "hydra.run.dir" not in values:
        arguments = [*arguments, f"hydra.run.dir={folder.as_posix()}"]
    if os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        return arguments
    if records.read_result(folder).get("status") == "finished":
        print(f"{folder}: finished before the job was restarted")
        raise SystemExit(0)
    return [*arguments, *_from_checkpoint(folder)]


def check_folder(folder: Path, ckpt_path: str | None) -> None:
    """Raise ConfigError if the folder holds a run other than the one being resumed."""
    finished = records.read_result(folder).get("status") == "finished"
    if not is_resumed(folder, ckpt_path) and (finished or (folder / LAST).exists()):
        resume = shlex.quote(f"resume={display_path(folder)}")
        raise ConfigError(
            f"hydra.run.dir={display_path(folder)}: holds a run; choose another folder, or {resume}"
        )


def is_resumed(folder: Path, ckpt_path: str | None) -> bool:
    """Whether a run continues from a checkpoint in its own folder."""
    path = os.path.normpath(Path(ckpt_path or "").absolute())
    return ckpt_path is not None and folder in Path(path).parents


def lock_run(folder: Path, kind: str = "run") -> ExitStack:
    """Create and lock the folder of a run or sweep until the context ends; ConfigError if not."""
    key, lock, unlock = f"hydra.{kind}.dir={display_path(folder)}", folder / ".lock", ExitStack()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
        unlock.enter_context(FileLock(lock).acquire(timeout=0))
    except Timeout as error:
        raise ConfigError(f"{key}: a {kind} is in progress there") from error
    except OSError as error:
        reason = f"cannot write there ({error.strerror}); choose another folder"
        raise ConfigError(f"{key}: {reason}") from error
    if os.name == "posix":  # on Windows, releasing the lock deletes the file
        unlock.callback(lock.unlink, missing_ok=True)
    return unlock


def compare_with(run: Path, folder: Path, metrics: dict[str, float]) -> dict[str, Any]:
    """Compare a run with its repetition in ``folder``, which has these metrics; times may differ.

    Returns the entry for ``result.json``: whether all figures agree, and the first difference.
    """
    try:
        pairs: Any = zip_longest(*map(records.read_metrics, (run, folder)), fillvalue={})
        figures = [(f"epoch {number}", *pair) for number, pair in enumerate(pairs, 1)]
        if before := records.read_result(run).get("metrics"):
            figures.append(("best epoch", before, metrics))
        difference = next(filter(None, starmap(_difference, figures)), None)
    except ConfigError as error:
        difference = str(error)
    return {"run": str(run), "same": difference is None, "difference": difference}


def _difference(name: str, old: dict[str, float], new: dict[str, float]) -> str | None:
    keys = sorted((old.keys() & new.keys()) - {"seconds"})
    changed = (f"{name}: {x} was {old[x]}, is {new[x]}" for x in keys if old[x] != new[x])
    return next(changed, None) if keys else f"{name}: only in one run"


@dataclass(frozen=True)
class Run:
    """A run with at least one finished epoch."""

    folder: Path
    checkpoint: Path  # whose weights are used, by default the best one
    config: DictConfig  # as composed for the run, and fitted to its data
    result: dict[str, Any]  # the content of result.json; empty while the run is in progress
    state: dict[str, Any]  # the content of the checkpoint

    @property
    def name(self) -> str:
        """The value of ``name``, or the last two parts of the folder's path."""
        return self.result.get("name") or "/".join(self.folder.absolute().parts[-2:])

    @property
    def epoch(self) -> int:
        """The epoch of the weights, from 1."""
        return int(self.state["epoch"]) + 1

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the logits."""
        return tuple(self.state[records.DATA_KEY]["classes"])

    @property
    def tested(self) -> bool:
        """Whether the run was evaluated on its test split."""
        return "test/acc" in self.result.get("metrics", {})

    @property
    def pooled(self) -> bool:
        """Whether official training and test images were pooled before the split."""
        return bool((self.result.get("data") or {}).get("pooled"))

    @property
    def notes(self) -> tuple[str, ...]:
        """Caveats about the run's accuracy."""
        return (POOLED,) if self.pooled else ()

    def setting(self, key: str, default: Any = None) -> Any:
        """A value of the configuration; the default where it is null or missing."""
        with records.checking(self.folder / ".hydra" / "config.yaml"):
            value = OmegaConf.select(self.config, key)
        return default if value is None else value

    def network(self) -> "PixelNet":
        """The network with the checkpoint's weights, in evaluation mode."""
        from lenet_pl.models.pixelnet import PixelNet

        weights = self.state["state_dict"]
        mean = weights["mean"].tolist() if "mean" in weights else 0.0  # of the right shape
        net = PixelNet(trust.build(without_weights(self.config), "model", self.folder), mean, mean)
        records.load_weights(net, weights, self.checkpoint, "does not fit the run's model")
        return net.eval()

    def loss(self) -> "nn.Module":
        """The loss function of training."""
        return cast("nn.Module", trust.build(self.config, "loss", self.folder))

    def data(self) -> "DigitsDataModule":
        """The run's data, split as for training; DataError if it has changed since."""
        data: DigitsDataModule = trust.build(self.config, "data", self.folder)
        data.prepare_data()
        data.setup()
        before, now = self.state[records.DATA_KEY], data.state_dict()
        for key in ("digest", "split_digest"):
            if before[key] != now[key]:
                raise DataError(
                    f"{self.folder}: the data differs from the run's ({key}): {data.source.name} "
                    f"in data.root={self.config.data.root} has changed since training"
                )
        return data


def open_run(name: str) -> Run:
    """Open a run folder, a checkpoint in one, or the ``latest`` run."""
    folder = find_run(name)
    best = folder / "checkpoints" / "best.ckpt"
    checkpoint = Path(name) if name.endswith(".ckpt") else best
    if (config := records.read_config(folder)) is None:
        raise ConfigError(f"{name}: {_describe(Path(name), folder)}")
    if not checkpoint.exists():
        raise ConfigError(f"{name}: no finished epoch ({checkpoint} is missing)")
    result, state = records.read_result(folder), records.read_checkpoint(checkpoint)
    with records.checking(folder / ".hydra" / "config.yaml"):
        check_values(config, ("data", "model", "loss"))
        config = fit_to_data(config, state[records.DATA_KEY])
        classes = len(state[records.DATA_KEY]["classes"])
        if config.model.get("num_classes", classes) != classes:
            raise ConfigError(
                f"model.num_classes={config.model.num_classes}: {checkpoint} has {classes} classes"
            )
    return Run(folder, checkpoint, config, result, state)


def _describe(path: Path, folder: Path) -> str:
    """Describe a path that is not a run."""
    if not folder.exists():
        return "no such folder"
    if path.suffix in (".pth", ".pt") and path.is_file():
        return "bare weights without a run; test and predict take them with --model lenet"
    if jobs := sorted(folder.glob("*/.hydra")):
        return f"holds runs; name one, such as {jobs[0].parent}"
    return f"not a run folder ({folder / '.hydra/config.yaml'} is missing)"


def without_weights(config: DictConfig) -> DictConfig:
    """Return a copy that loads no pretrained weights, since a checkpoint has all weights."""
    config = config.copy()
    if OmegaConf.select(config, "model.weights"):
        config.model.weights = None
    return config


def program_name() -> str:
    """The program that trains, for suggested commands: the one that started this process."""
    return "python train.py" if Path(sys.argv[0]).name == "train.py" else "lenet-pl train"


def train_command() -> str:
    """:func:`program_name` with the search path that it was given."""
    search = [word for word in sys.argv[1:] if word.startswith("hydra.searchpath=")]
    return f"{program_name()} {shlex.join(search)}".rstrip()


def package_versions() -> dict[str, str]:
    """The versions of lenet-pl and of the packages that affect a run's results."""
    return {"lenet-pl": __version__, **{name: version(name) for name in PACKAGES}}


def git_state() -> dict[str, Any] | None:
    """The commit of the code's checkout, and whether it is dirty; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # fails if the repository belongs to another project
        git("ls-files", "--error-unmatch", __file__)
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
