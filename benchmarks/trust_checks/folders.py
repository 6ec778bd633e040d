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
from trust_checks.damages import ANY_FILE, Damage, change, cut, flip, instead, write

ITEMS = {"folders": "a damaged or hostile file in a run folder, for each command that reads it"}
USES = {
    "test": ["lenet-pl", "test", "run"],
    "predict": ["lenet-pl", "predict", "run", "digit.png"],
    "report": ["lenet-pl", "report", "run"],
    "export": ["lenet-pl", "export", "run", "--format", "torch"],
    "sweep": ["lenet-pl", "sweep", "sweep"],
    "resume": ["train.py", "resume=run", "trainer.max_epochs=3"],
}


def cases(options: argparse.Namespace) -> Iterator[Case]:
    pairs = [(u, f, name) for f, (uses, table) in FILES.items() for name in table for u in uses]
    if options.quick:
        pairs = random.Random(options.seed).sample(pairs, 16)
    for use, file, name in pairs:
        yield Case("folders", f"{use}, {file}: {name}", partial(damaged, use, file, name))


def _originals(folder: Path) -> None:
    """A finished run, a sweep of two, an image, and the output of each command for them."""
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
    (w / "payload.pt").write_bytes(pickle.dumps(Payload()))  # a configuration may try to load it
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
        require(not extra, f"accepted, but with different figures: {', '.join(sorted(extra)[:4])}")


def _figures(text: str) -> set[str]:
    return set(re.findall(r"\d+\.\d+|\bnan\b|\binf\b", text))


def _set_browser(path: Path) -> None:
    """Let opening a web page, as ``import antigravity`` does, create a file."""
    os.environ["BROWSER"] = f"touch {path} #%s"


def _files(folder: Path) -> dict[Path, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder): path.read_bytes() for path in paths}


# --- damages


class Payload:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("PWNED", "w"))


def _save(value: Any) -> Damage:
    return lambda path: torch.save(value, path)


def _script(path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)


def _edit(function: Callable[[Any], Any]) -> Damage:
    """Change the content of a checkpoint, or of a file in JSON or YAML."""

    def edit(path: Path) -> None:
        if path.suffix == ".ckpt":
            torch.save(function(torch.load(path, weights_only=True)), path)
        else:
            dump = json.dumps if path.suffix == ".json" else yaml.safe_dump
            path.write_text(dump(function(yaml.safe_load(path.read_text()))))

    return edit


GONE = object()  # the value of a key to remove


def _set(key: str, value: Any) -> Damage:
    """Set or remove a nested value, or apply a function to it; ``*`` is the first key."""

    def change(content: Any) -> Any:
        node = content
        *parents, last = key.split(".")
        for name in parents:
            node = node[name] if name != "*" else next(iter(node.values()))
        last = last if last != "*" else next(iter(node))
        if value is GONE:
            del node[last]
        else:
            node[last] = value(node[last]) if callable(value) else value
        return content

    return _edit(change)


def _values(table: dict[str, list[Any]]) -> dict[str, Damage]:
    """Damages that give a key each of some values."""
    return {
        f"no {key}" if value is GONE else f"{key} = {repr(value)[:70]}": _set(key, value)
        for key, values in table.items()
        for value in values
    }


def _filled(number: float) -> Callable[[Any], Any]:
    return lambda state: {name: torch.full_like(value, number) for name, value in state.items()}


DATA = "DigitsDataModule"
CHECKPOINT: dict[str, Damage] = {
    **ANY_FILE,
    **{f"cut at {part:.0%}": cut(part) for part in (0.01, 0.1, 0.9, 0.99)},
    **{f"flipped bit at {part:.0%}": flip(part) for part in (0.0, 0.02, 0.3, 0.6, 0.85, 0.98)},
    "pickled code": write(pickle.dumps(Payload())),
    "saved code": _save({"state_dict": Payload(), "epoch": 1}),
    "TorchScript": instead(_script),
    "a tensor": _save(torch.zeros(3)),
    "a list": _save([1, 2]),
    "nothing": _save({}),
    **_values(
        {
            "epoch": [GONE, "x", -5, None],
            "settings": [GONE, []],
            "state_dict": [GONE, []],
            "state_dict.*": [GONE, "x", torch.zeros(2)],
            DATA: [GONE],
            f"{DATA}.classes": [GONE, ["a"], 7],
            f"{DATA}.digest": [GONE, 1],
            "callbacks": [GONE, []],
            "callbacks.*": [GONE, 3],
            "optimizer_states": [GONE, [{}]],
            "lr_schedulers": [1],
            "loops": [GONE],
            "global_step": [GONE],
        }
    ),
    "weights NaN": _set("state_dict", _filled(float("nan"))),
    "weights infinite": _set("state_dict", _filled(float("inf"))),
    "weights of one layer NaN": _set("state_dict.*", lambda old: old * float("nan")),
    "whole-numbered names": _set("state_dict", lambda old: dict(enumerate(old.values()))),
}

# code that a hostile configuration could name, with its arguments
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
    "torch.load": {"f": "payload.pt", "weights_only": False},
    "numpy.load": {"file": "payload.pt", "allow_pickle": True},
}
BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML = ANY_FILE | {"a list": write("[1, 2]"), "a mapping": write("{a: 1}"), "bomb": write(BOMB)}
PARTS = [{"_target_": target, **arguments} for target, arguments in TARGETS.items()]
CONFIG: dict[str, Damage] = YAML | _values(
    {
        "model": ["${model}", None, *PARTS],
        "model.num_classes": ["x"],
        "model._args_": [[1, 2, 3]],
        "data": [3],
        "data.batch_size": ["x"],
        "data.eval_batch_size": [-1],
        "data.val_size": ["x"],
        "data.source": [None],
        "data.augment": [{"x": part} for part in PARTS],
        "loss": ["x"],
    }
)
WORDS = [
    *("--config-dir=.", "-cd=x", "--multirun", "--help", "--cfg=job", "hydra.job.chdir=x"),
    *("hydra.run.dir=PWNED", "hydra/launcher=joblib", "hydra.searchpath=[file://.]"),
    *("hydra.callbacks.x._target_=os.system", "run_dir=PWNED", "ckpt_path=nope"),
    *("model._target_=os.system", "hydra.output_subdir=PWNED", "resume=other", "no_such_key=1"),
]
CALLBACKS = [
    [f"+callbacks.x.{name}={json.dumps(value)}" for name, value in part.items()] for part in PARTS
]


def _override(*words: str) -> Damage:
    return _edit(lambda overrides: [*overrides, *words])


OVERRIDES: dict[str, Damage] = {
    # a link to nothing is like no file: a job of a sweep that has not started
    **{name: damage for name, damage in YAML.items() if name != "loop of links"},
    **{word: _override(word) for word in WORDS},
    **{words[0]: _override(*words) for words in CALLBACKS},
}
RESULT: dict[str, Damage] = {
    **ANY_FILE,
    "a number": write("3"),
    "a list": write("[[1, 2]]"),
    "not UTF-8": write(b'{"status": "\xff"}'),
    **_values(
        {
            "metrics": [3, {"val/acc": "x"}, {"test/acc": None}],
            "metrics.val/acc": [float("nan"), 1e999],
            "status": [5, "x" * 5000],
            "epochs": ["x", -1],
            "best_epoch": ["x"],
            "data": [7],
            "seconds": [[]],
            "versions": [1],
            "git": ["x"],
            "overrides": [1],
        }
    ),
}
METRICS: dict[str, Damage] = {
    **ANY_FILE,
    "text": write("epoch,val/acc\n1,x\n"),
    "no columns": write("epoch\n1\n2\n"),
    "too many columns": change(lambda old: old + b"1,2,3,4,5,6,7,8,9\n"),
    "infinite": change(lambda old: old.replace(b"0.", b"1e999")),
}
READERS = ("test", "predict", "report", "export", "resume")
# for each file of a run: the commands that read it, and its damages
FILES: dict[str, tuple[tuple[str, ...], dict[str, Damage]]] = {
    "checkpoints/best.ckpt": (READERS, CHECKPOINT),
    "checkpoints/last.ckpt": (("resume",), CHECKPOINT),
    ".hydra/config.yaml": (("predict", "report", "export", "resume"), CONFIG),
    ".hydra/overrides.yaml": (("resume", "sweep"), OVERRIDES),
    "result.json": (("test", "report", "export", "sweep", "resume"), RESULT),
    "metrics.csv": (("report", "sweep", "resume"), METRICS),
}
