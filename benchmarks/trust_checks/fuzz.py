"""Random command lines: valid, mistyped, of the wrong type, at a boundary, nonsensical."""

import argparse
import random
import shlex
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from helpers.commands import ROOT
from omegaconf import OmegaConf

from trust_checks import base
from trust_checks.base import QUICK, Case, reference, require

ITEMS = {
    "fuzz-train": "random command lines of train.py: accepted, or one line and no run folder",
    "fuzz-tools": "random command lines of lenet-pl's other commands",
}
CONF = ROOT / "conf"
BASE = ["data=mini", "data.val_size=100", "data.fraction=0.02", "logger=none", "trainer=debug"]
VALUES = [
    *("null", "true", "false", "no", "-1", "0", "1", "2", "0.5", "1e-400", "1e400", "1.5", "-0.0"),
    *("nan", "inf", "-inf", "9" * 30, "0x10", "1_000", "???", "${seed}", "${nope}", "$", "${"),
    *("${oc.env:NOPE}", "${model}", "''", "x", "数", "é x", "[1]", "[]", "[[1]]", "{}", "{a:1}"),
    *("1,2", "A" * 5000, r"\x1b[31m", "'", '"', "=", "a=b", "@", "%", "~", "[1,2", "2024-01-01"),
]
HYDRA = ["hydra.job.chdir", "hydra.output_subdir", "hydra.run.dir", "hydra.mode", "hydra.verbose"]
HYDRA += ["hydra.job.name", "hydra.searchpath", "hydra.sweep.dir", "hydra.callbacks", "hydra.nope"]
HYDRA += ["hydra/launcher", "hydra/sweeper", "hydra/job_logging", "hydra.callbacks.preflight"]
FLAGS = ["--help", "--cfg=job", "--resolve", "--info", "--version", "-m", "--nope", "-x", "-cn=x"]
FLAGS += ["--config-dir=nope", "--package=x", "--cfg=x", "--run", "--multirun", "-h", "--"]
SPECIAL = ["_target_", "_partial_", "_recursive_", "_convert_", "_args_", "new", "", "a.b", "0"]


def cases(options: argparse.Namespace) -> Iterator[Case]:
    rng, grammar = random.Random(options.seed), Grammar()
    for _ in range(24 if options.quick else 420):
        words = grammar.overrides(rng)
        yield Case("fuzz-train", shlex.join(words)[:300], partial(fuzz_train, words))
    for _ in range(10 if options.quick else 160):
        words = draw_command(rng)
        yield Case("fuzz-tools", shlex.join(words)[:300], partial(fuzz_tool, words))


class Grammar:
    """Draws overrides from the groups and keys of ``conf/``."""

    def __init__(self) -> None:
        self.options: dict[str, list[str]] = {}
        keys: dict[str, Any] = {}
        for path in sorted(CONF.glob("*/*.yaml")):
            group = path.parent.name
            self.options.setdefault(group, []).append(path.stem)
            if group not in ("experiment", "sweep"):
                keys |= _flat(group, OmegaConf.to_container(OmegaConf.load(path)))
        keys |= _flat("", OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml")))
        ours = {key: value for key, value in keys.items() if not key.startswith(("hydra", "def"))}
        self.keys = {key: value for key, value in ours.items() if not key.endswith("_")}

    def overrides(self, rng: random.Random) -> list[str]:
        drawn = [self._override(rng) for _ in range(rng.choice([1, 1, 2, 3]))]
        # sometimes with valid options, so that values are tried where they take effect
        groups = rng.sample(["model", "loss", "optimizer", "scheduler", "augment", "callbacks"], 2)
        valid = [f"{group}={rng.choice(self.options[group])}" for group in groups]
        return [*BASE, *rng.choice([[], valid]), *drawn]

    def _override(self, rng: random.Random) -> str:
        group, key = rng.choice([*self.options]), rng.choice([*self.keys])
        option, value = rng.choice(self.options[group]), rng.choice(VALUES)
        typo = key[: len(key) // 2] + rng.choice("xé_") + key[len(key) // 2 + 1 :]
        parent = key.rpartition(".")[0] or group
        forms = [
            *4 * [f"{key}={value}"],
            *2 * [f"{group}={option}"],
            f"{key}={self.keys[key]}",
            f"{key}=[{self.keys[key]}]",
            f"{typo}={value}",
            f"{group}={value}",
            f"{group}=[{option}]",
            f"{group}=[{option},{rng.choice(self.options[group])}]",
            f"{group}={option}{rng.choice('xt ')}",
            f"{group}/{option}={value}",
            f"~{rng.choice([group, key, typo])}",
            f"+{key}={value}",
            f"++{key}={value}",
            f"++{parent}.{rng.choice(SPECIAL)}={value}",
            f"+{parent}.{rng.choice(SPECIAL)}={value}",
            f"{rng.choice(HYDRA)}={value}",
            f"resume={value}",
            f"ckpt_path={value}",
            rng.choice(FLAGS),
            value,
        ]
        return rng.choice(forms)


def _flat(prefix: str, node: Any) -> dict[str, Any]:
    """The leaves by dotted key."""
    if not isinstance(node, dict):
        return {prefix: "null" if node is None else node}
    pairs = (_flat(f"{prefix}.{key}".lstrip("."), value) for key, value in node.items())
    return {key: value for part in pairs for key, value in part.items()}


def fuzz_train(words: list[str], w: Path) -> None:
    """Accepted, or refused in one line without leaving files; a long run can be stopped."""
    running = base.start(w, *words)
    running.process.join(60)
    if running.poll() is None:
        out = running.outputs[0].read_text(errors="replace")
        require("run folder" in out or "epoch" in out, "hangs: no start summary after 60 s")
        running.send_signal(signal.SIGTERM)
    multirun = {"-m", "--multirun", "hydra.mode=MULTIRUN"} & {*words}
    sweeps = multirun or any(word.startswith(("sweep=", "hydra/sweeper")) for word in words)
    done = running.wait(base.ENDED)
    if sweeps and done.returncode == 1:  # a line per failed job
        require("Traceback" not in done.stdout + done.stderr, "traceback")
        return
    base.check_answer(done, (0, 1, 2))
    if done.returncode == 2:
        left = [str(path.relative_to(w)) for path in w.rglob("*")]
        left = [path for path in left if not path.startswith("data")]
        require(not left, f"status 2, but left {left[:3]}")


def draw_command(rng: random.Random) -> list[str]:
    """A command of lenet-pl with random options and values."""
    runs = ["run", "run", "run", "run/checkpoints/best.ckpt", "run/best.pth", "nope", "latest", ""]
    runs += ["run/result.json", ".", "run/checkpoints", "/dev/null", "数", "run/nope.ckpt", "~"]
    options = {
        "test": ["--split", "--data", "--root", "--robust", "--model", "--json"],
        "predict": ["--invert", "--show", "--model", "--json"],
        "report": ["--json"],
        "export": ["--format", "--json", "--out", "--output"],
        "sweep": ["--json"],
        "list": ["--json"],
    }
    name = rng.choice([*options])
    values = ["val", "train", "test", "mini", "lenet", "auto", "yes", "torch", "html", "x"]
    values += ["", "-1", "数", "A" * 3000, "run", "nope/nope", "\x1b[31m"]
    words = [name, rng.choice(runs)]
    if name == "predict" or rng.random() < 0.2:
        words.append(rng.choice([*runs, "*.png", "[", "-"]))
    for _ in range(rng.choice([0, 1, 1, 2])):
        words.append(rng.choice([*options[name], "--nope", "-h"]))
        if rng.random() < 0.6:
            words.append(rng.choice(values))
    return words


def fuzz_tool(words: list[str], w: Path) -> None:
    trained = reference([*QUICK, "trainer.max_epochs=2"]).folder
    shutil.copytree(trained, w / "run")
    running = base.start(w, *words, program="lenet-pl")
    # predict has a line for each image that it cannot read
    base.finish(running, (0, 1, 2), lines=100 if words[0] == "predict" else 1)
