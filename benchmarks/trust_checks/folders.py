"""Damaged and hostile run folders, given to every command that reads one."""

import argparse
import json
import os
import pickle
import random
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from torch import nn

from trust_checks import base
from trust_checks.base import QUICK, Case, require, run

ITEMS = {"folders": "a damaged or hostile file in a run folder, for each command that reads it"}
USES = {
    "test": ["lenet-pl", "test", "run"],
    "predict": ["lenet-pl", "predict", "run", "digit.png"],
    "report": ["lenet-pl", "report", "run"],
    "export": ["lenet-pl", "export", "run", "--format", "torch"],
    "sweep": ["lenet-pl", "sweep", "sweep"],
    "resume": ["train.py", "resume=run", "trainer.max_epochs=3"],
}
Damage = Callable[[Path], object]


def cases(options: argparse.Namespace) -> Iterator[Case]:
    pairs = [(u, f, name) for f, (uses, table) in FILES.items() for name in table for u in uses]
    if options.quick:
        pairs = random.Random(options.seed).sample(pairs, 16)
    for use, file, name in pairs:
        yield Case("folders", f"{use}, {file}: {name}", partial(damaged, use, file, name))


def _originals(folder: Path) -> None:
    """A finished run, a sweep of two, an image, and the answer of each command to them."""
    words = [*QUICK, "trainer.max_epochs=2"]
    run(folder, *words, "hydra.run.dir=run")
    run(folder, "-m", *words, "seed=0,1", "hydra.sweep.dir=sweep")
    Image.new("L", (60, 60)).save(folder / "digit.png")
    with Image.open(folder / "digit.png") as image:
        image.paste(255, (28, 10, 34, 50))
        image.save(folder / "digit.png")
    for use, (program, *arguments) in USES.items():
        copy = folder / "answers" / use
        copy.mkdir(parents=True)
        for name in ("run", "sweep"):
            shutil.copytree(folder / name, copy / name)
        shutil.copy(folder / "digit.png", copy)
        done = run(copy, *arguments, program=program)
        (copy / "answer").write_text(done.stdout)


def damaged(use: str, file: str, damage: str, w: Path) -> None:
    """A command refuses a damaged run in one line, or gives the figures of the undamaged one.

    A refusal changes nothing in the folder, and code in a file is never run.
    """
    folder = base.once("folders", _originals)
    for name in ("run", "sweep"):
        shutil.copytree(folder / name, w / name)
    shutil.copy(folder / "digit.png", w)
    FILES[file][1][damage](w / ("sweep/0" if use == "sweep" else "run") / file)
    before = _files(w)
    program, *arguments = USES[use]
    hook = partial(_set_browser, w / "PWNED")
    running = base.start(w, *arguments, program=program, hook=hook)
    try:
        done = base.finish(running, status=(0, 1, 2))
    finally:
        require(not list(w.parent.rglob("PWNED*")), "the file ran code")
    if done.returncode == 2:
        after = _files(w)
        changed = [str(path) for path in {*before, *after} if before.get(path) != after.get(path)]
        require(not changed, f"a refusal changed {changed}")
    elif done.returncode == 0 and use == "resume":
        base.require_same(w / "run", folder / "answers" / "resume" / "run")
    elif done.returncode == 0:
        extra = _figures(done.stdout) - _figures((folder / "answers" / use / "answer").read_text())
        require(not extra, f"accepted, but other figures: {', '.join(sorted(extra)[:4])}")


def _figures(text: str) -> set[str]:
    return set(re.findall(r"\d+\.\d+|\bnan\b|\binf\b", text))


def _set_browser(path: Path) -> None:
    """Make opening a web page, as ``import antigravity`` does, leave a file."""
    os.environ["BROWSER"] = f"touch {path} #%s"


def _files(folder: Path) -> dict[Path, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder): path.read_bytes() for path in paths}


# --- damages


class Payload:
    """Leaves a file where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("PWNED", "w"))


def _text(content: str) -> Damage:
    return lambda path: path.write_text(content)


def _cut(fraction: float) -> Damage:
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])


def _flip(fraction: float) -> Damage:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(len(content) * fraction)] ^= 0x40
        path.write_bytes(content)

    return flip


def _saved(value: Any) -> Damage:
    return lambda path: torch.save(value, path)


def _pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Payload()))


def _script(path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _set(*keys: str, value: Any = None, remove: bool = False) -> Damage:
    """Replace or remove a nested value of a file; ``*`` stands for the first key."""

    def change(path: Path) -> None:
        content = node = _read(path)
        *parents, last = keys
        for key in parents:
            node = node[key] if key != "*" else next(iter(node.values()))
        last = last if last != "*" else next(iter(node))
        if remove:
            del node[last]
        else:
            node[last] = value(node[last]) if callable(value) else value
        _write(path, content)

    return change


def _read(path: Path) -> Any:
    if path.suffix == ".ckpt":
        return torch.load(path, weights_only=True)
    return yaml.safe_load(path.read_text())  # JSON as well


def _write(path: Path, content: Any) -> None:
    if path.suffix == ".ckpt":
        torch.save(content, path)
    else:
        path.write_text((json.dumps if path.suffix == ".json" else yaml.safe_dump)(content))


def _values(*pairs: tuple[str, Any]) -> dict[str, Damage]:
    """Damages that set keys with dots."""
    return {
        f"{key} = {json.dumps(value)[:70]}": _set(*key.split("."), value=value)
        for key, value in pairs
    }


def _everywhere(number: float) -> Callable[[Any], Any]:
    return lambda state: {name: torch.full_like(value, number) for name, value in state.items()}


DATA = "DigitsDataModule"
CHECKPOINT: dict[str, Damage] = {
    **{f"cut at {part:.0%}": _cut(part) for part in (0, 0.01, 0.1, 0.5, 0.9, 0.99)},
    **{f"flipped bit at {part:.0%}": _flip(part) for part in (0.0, 0.02, 0.3, 0.6, 0.85, 0.98)},
    "HTML": _text("<!DOCTYPE html>"),
    "pickled code": _pickled,
    "saved code": _saved({"state_dict": Payload(), "epoch": 1}),
    "TorchScript": _script,
    "a tensor": _saved(torch.zeros(3)),
    "a list": _saved([1, 2]),
    "nothing": _saved({}),
    "a folder": _folder,
    **{
        f"no {key}": _set(*key.split("."), remove=True)
        for key in (
            *("state_dict", "epoch", "settings", DATA, f"{DATA}.classes", f"{DATA}.digest"),
            *(f"{DATA}.mean", "state_dict.*", "optimizer_states", "callbacks", "loops"),
            *("callbacks.*", "global_step"),
        )
    },
    **_values(
        *(("epoch", "x"), ("epoch", -5), ("epoch", None), ("settings", []), ("state_dict", [])),
        *((f"{DATA}.classes", ["a"]), (f"{DATA}.classes", 7), (f"{DATA}.mean", "x")),
        *((f"{DATA}.digest", 1), ("callbacks", []), ("callbacks.*", 3)),
        *(("optimizer_states", [{}]), ("lr_schedulers", 1)),
    ),
    "weights NaN": _set("state_dict", value=_everywhere(float("nan"))),
    "weights infinite": _set("state_dict", value=_everywhere(float("inf"))),
    "weights of one layer NaN": _set("state_dict", "*", value=lambda old: old * float("nan")),
    "weights of another shape": _set("state_dict", "*", value=torch.zeros(2)),
    "weights that are text": _set("state_dict", "*", value="x"),
    "whole-numbered names": _set("state_dict", value=lambda old: dict(enumerate(old.values()))),
}


TARGETS: dict[str, dict[str, Any]] = {
    "os.system": {"command": "touch PWNED"},
    "subprocess.check_output": {"args": ["touch", "PWNED"]},
    "builtins.open": {"file": "PWNED", "mode": "w"},
    "logging.FileHandler": {"filename": "PWNED"},
    "torch.save": {"obj": 1, "f": "PWNED"},
    "shutil.copy": {"src": "digit.png", "dst": "PWNED"},
    "antigravity.x": {},
    "lenet_pl.files.write_bytes": {"path": "PWNED", "data": ""},
    "lenet_pl.models.lenet.os.system": {"command": "touch PWNED"},
}
BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
CONFIG: dict[str, Damage] = {
    "empty": _text(""),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "a list": _text("[1, 2]"),
    "brackets": _text("[" * 3000),
    "alias bomb": _text(BOMB),
    **_values(
        *(("model", "${model}"), ("model", None), ("data", 3), ("model.num_classes", "x")),
        *(("data.batch_size", "x"), ("data.eval_batch_size", -1), ("data.val_size", "x")),
        *(("loss", "x"), ("data.source", None), ("model._args_", [1, 2, 3])),
        *(("model", {"_target_": target, **TARGETS[target]}) for target in TARGETS),
        *(("data.augment", {"x": {"_target_": target, **TARGETS[target]}}) for target in TARGETS),
    ),
}


def _overrides(*added: str) -> Damage:
    """Add overrides; beside the run lies a pickle, which they may load."""

    def change(path: Path) -> None:
        Path(path.parents[2] / "payload.pt").write_bytes(pickle.dumps(Payload()))
        _write(path, [*_read(path), *added])

    return change


def _callback(target: str, arguments: dict[str, Any]) -> Damage:
    words = [f"+callbacks.x.{name}={json.dumps(value)}" for name, value in arguments.items()]
    return _overrides(f"+callbacks.x._target_={target}", *words)


OVERRIDES: dict[str, Damage] = {
    "empty": _text(""),
    "numbers": _text("[1, 2]"),
    "a mapping": _text("{a: 1}"),
    "brackets": _text("[" * 3000),
    "alias bomb": _text(BOMB),
    "no key": _overrides("no_such_key=1"),
    **{target: _callback(target, arguments) for target, arguments in TARGETS.items()},
    "torch.load": _callback("torch.load", {"f": "payload.pt", "weights_only": False}),
    "numpy.load": _callback("numpy.load", {"file": "payload.pt", "allow_pickle": True}),
    **{
        word: _overrides(word)
        for word in (
            *("--config-dir=.", "-cd=x", "--multirun", "--help", "--cfg=job", "hydra.job.chdir=x"),
            *("hydra.run.dir=PWNED", "hydra/launcher=joblib", "hydra.searchpath=[file://.]"),
            *("hydra.callbacks.x._target_=os.system", "run_dir=PWNED", "ckpt_path=nope"),
            *("model._target_=os.system", "hydra.output_subdir=PWNED", "resume=other"),
        )
    },
}


RESULT: dict[str, Damage] = {
    "half": _cut(0.5),
    "HTML": _text("<!DOCTYPE html>"),
    "a number": _text("3"),
    "a list": _text("[[1, 2]]"),
    "brackets": _text("[" * 100_000),
    "not UTF-8": lambda path: path.write_bytes(b'{"status": "\xff"}'),
    **_values(
        *(("metrics", 3), ("metrics", {"val/acc": "x"}), ("metrics", {"test/acc": None})),
        *(("data", 7), ("seconds", []), ("status", 5), ("status", "x" * 5000), ("epochs", "x")),
        *(("versions", 1), ("git", "x"), ("overrides", 1), ("best_epoch", "x"), ("epochs", -1)),
        ("metrics", {"val/acc": float("nan"), "val/loss": 1e999}),
    ),
}
METRICS: dict[str, Damage] = {
    "empty": _text(""),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "text": _text("epoch,val/acc\n1,x\n"),
    "no columns": _text("epoch\n1\n2\n"),
    "half": _cut(0.5),
    "too many columns": lambda path: path.write_text(path.read_text() + "1,2,3,4,5,6,7,8,9\n"),
    "infinite": lambda path: path.write_text(path.read_text().replace("0.", "1e999")),
}
READERS = ("test", "predict", "report", "export", "resume")
# the files of a run, the commands that read them, and what happens to them
FILES: dict[str, tuple[tuple[str, ...], dict[str, Damage]]] = {
    "checkpoints/best.ckpt": (READERS, CHECKPOINT),
    "checkpoints/last.ckpt": (("resume",), CHECKPOINT),
    ".hydra/config.yaml": (("predict", "report", "export", "resume"), CONFIG),
    ".hydra/overrides.yaml": (("resume", "sweep"), OVERRIDES),
    "result.json": (("test", "report", "export", "sweep", "resume"), RESULT),
    "metrics.csv": (("report", "sweep", "resume"), METRICS),
}
