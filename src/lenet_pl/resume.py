"""How a run is found, and how it is taken up again."""

import json
import os
from pathlib import Path

import yaml

from lenet_pl.errors import ConfigError
from lenet_pl.record import is_job


def find(name: str) -> Path:
    """A run folder by its path, by that of a checkpoint or of ``best.pth`` in it, or ``latest``.

    Raises:
        ConfigError: if there is no latest.
    """
    if name == "latest":
        runs = sorted(Path("outputs/runs").glob("*/*/.hydra"))
        if not runs:
            raise ConfigError("latest: outputs/runs holds no run")
        return runs[-1].parent
    path = Path(name)
    if path.name == "best.pth":
        return path.parent
    return Path(os.path.normpath(path / "../..")) if path.suffix == ".ckpt" else path


def resume_arguments(arguments: list[str]) -> list[str]:
    """Replace ``resume=RUN`` by what takes that run up again, in its own folder.

    The run's own overrides come first, so those given now win.

    Raises:
        ConfigError: if there is no run there, or none that can go on by itself.
    """
    asked = [word for word in arguments if word.startswith("resume=")]
    if not asked:
        return arguments
    run = find(asked[-1].removeprefix("resume="))
    checkpoint = run / "checkpoints" / "last.ckpt"
    overrides = run / ".hydra" / "overrides.yaml"
    if not overrides.is_file():
        raise ConfigError(f"resume={run}: no run folder there (it would hold {overrides})")
    if is_job(run):  # what it would write there is not what the sweep asks for
        raise ConfigError(
            f"resume={run}: a job of a sweep; go on with the same sweep command and "
            f"hydra.sweep.dir={run.parent}, or train it longer elsewhere: its overrides and "
            f"ckpt_path={checkpoint}"
        )
    if not checkpoint.is_file():
        raise ConfigError(f"resume={run}: no finished epoch to go on from ({checkpoint})")
    given = [word for word in arguments if word not in asked]
    try:
        return _continued(run, checkpoint, given)
    except (ValueError, TypeError, KeyError, OSError, yaml.YAMLError) as error:
        raise ConfigError(f"resume={run}: a damaged run folder: {error}") from error


def _continued(run: Path, checkpoint: Path, given: list[str]) -> list[str]:
    """The overrides that take a run up again."""
    overrides = run / ".hydra" / "overrides.yaml"
    _check_unfinished(run, given)
    keys = {_key(word) for word in given} | {"ckpt_path"}
    if "classifier" in keys:  # either goes on with the other's checkpoint, without its options
        keys |= {"classifier.steps_per_execution", "classifier.cuda_graph"}
    before = [
        word
        for word in yaml.safe_load(overrides.read_text(encoding="utf-8"))
        if _key(word) not in keys
    ]
    return [
        *before,
        f"ckpt_path={_quoted(checkpoint)}",
        f"hydra.run.dir={_quoted(run)}",
        *given,
    ]


def _check_unfinished(run: Path, given: list[str]) -> None:
    """A finished run has been tested; it goes on only to train longer."""
    result = run / "result.json"
    if not result.is_file() or (found := json.loads(result.read_text()))["status"] != "finished":
        return
    longer = [word.partition("=")[2] for word in given if _key(word) == "trainer.max_epochs"]
    if not longer or (longer[-1].isdigit() and int(longer[-1]) <= found["epochs"]):
        raise ConfigError(
            f"resume={run}: is finished after {found['epochs']} epochs; "
            f"give a larger trainer.max_epochs to train longer"
        )


def _key(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~")


def _quoted(path: Path) -> str:
    return "'" + path.as_posix().replace("'", r"\'") + "'"
