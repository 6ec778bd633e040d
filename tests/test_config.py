"""Every YAML, the import rules and the commands of the README, without training."""

import inspect
import re
import shlex
import subprocess
import sys

import pytest
from helpers.commands import ROOT
from helpers.imports import TAKEN_BY_MODELS, imports
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from lenet_pl.cli import COMMANDS
from lenet_pl.config import RULES, check
from lenet_pl.sweeps.presets import prefer_own_presets
from lenet_pl.training import hparams

GROUPS = sorted(
    path.relative_to(ROOT / "conf").with_suffix("")
    for path in (ROOT / "conf").glob("*/*.yaml")
    if path.parent.name != "hydra"
)


@pytest.mark.parametrize("choice", GROUPS, ids=str)
def test_every_yaml_composes_and_binds(composed, choice):
    cfg = composed(f"{choice.parent}={choice.name}")
    check(cfg)
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    bound = list(bind(cfg))
    assert len(bound) >= 7
    assert all(isinstance(value, str | int | float | bool) for value in hparams(cfg).values())


def bind(node: DictConfig):
    """Check each target's keys against its signature; yield the targets."""
    if "_target_" in node:
        target = get_object(node._target_)
        keys = [str(key) for key in node if key not in ("_target_", "_partial_")]
        signature = inspect.signature(target)
        if node.get("_partial_", False) or node._target_.endswith("Classifier"):
            signature.bind_partial(**dict.fromkeys(keys))  # the code gives the rest
        else:
            signature.bind(**dict.fromkeys(keys))
        yield node._target_
    for value in node.values():
        if isinstance(value, DictConfig):
            yield from bind(value)


def test_the_rules_speak_of_keys_that_are_there(composed):
    groups = {key.split(".")[0] for key in RULES}
    chosen = [choice for choice in GROUPS if str(choice.parent) in groups]
    known = [composed(f"{choice.parent}={choice.name}") for choice in chosen]
    for key in RULES:
        group, _, name = key.rpartition(".")
        assert any(
            name in (OmegaConf.select(cfg, group) or {} if group else cfg) for cfg in known
        ), key


def test_defaults_are_the_tutorial_s(composed):
    cfg = composed()
    assert (cfg.optimizer.lr, cfg.optimizer.momentum) == (0.001, 0.9)
    assert (cfg.data.batch_size, cfg.trainer.max_epochs) == (32, 20)
    assert cfg.callbacks.early_stopping.patience < cfg.trainer.max_epochs


# who may import whom: room → what it may take from its own project
ALLOWED = {
    "models": {"models"},
    "data": {"data"},
    "classifier": {"pixels"},
    "fast": {"classifier"},
    "pixels": set(),
    "errors": set(),
    "console": set(),
    "resume": {"errors", "record"},
    "record": set(),
    "run": {"data.datamodule", "errors", "pixels", "resume"},
    "analysis": {
        "analysis",
        "data",
        "models",
        "classifier",
        "console",
        "errors",
        "pixels",
        "record",
        "run",
    },
    "callbacks": {"callbacks", "analysis.plots", "analysis.evaluate", "console"},
    "rules": set(),
    "mistakes": {"errors", "data.errors"},
    "checks": {"errors", "mistakes", "rules", "build"},
    "losses": set(),
    "optimizers": set(),
    "schedules": set(),
    "plan": {"callbacks", "classifier", "data", "errors", "fast", "schedules"},
    "build": {"callbacks", "classifier", "data", "errors", "plan", "run"},
    "training": {
        "build",
        "checks",
        "console",
        "errors",
        "mistakes",
        "record",
        "analysis.evaluate",
        "models.describe",
    },
    "sweeping": {
        "sweeping",
        "analysis",
        "checks",
        "console",
        "data",
        "errors",
        "mistakes",
        "record",
    },
    "cli": {"mistakes", "resume", "sweeping", "training"},
    "commands": {"analysis", "commands", "console", "data", "errors", "record", "run"},
    "launch": {"cli"},
}


SOURCES = sorted((ROOT / "src" / "lenet_pl").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_rooms_import_only_what_they_may(path):
    inside = path.relative_to(ROOT / "src" / "lenet_pl")
    room = inside.parts[0].removesuffix(".py")
    for module in imports(path):
        if room == "models":
            assert module.split(".")[0] in TAKEN_BY_MODELS
        if module.startswith("lenet_pl."):
            name = module.removeprefix("lenet_pl.")
            parents = {".".join(name.split(".")[:n]) for n in (1, 2)}
            assert parents & ALLOWED[room], f"{inside} imports {module}"


def test_source_files_stay_short():
    lengths = {path.name: len(path.read_text().splitlines()) for path in SOURCES}
    assert max(lengths.values()) <= 215, lengths


def readme_commands() -> list[str]:
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    inline = re.findall(r"`((?:python train\.py|lenet-pl) [^`…]*)`", text)
    return [line for line in lines + inline if line and not line.startswith("#")]


@pytest.mark.parametrize("line", readme_commands())
def test_commands_of_the_readme(composed, line):
    for part in line.split(" && "):
        words = shlex.split(part)
        if words[:2] in (["python", "train.py"], ["lenet-pl", "train"]):
            words = [word for word in words[2:] if word not in ("-m", "--help")]
            overrides = [re.sub(r"=([^\[,]*),.*", r"=\1", word) for word in words]
            prefer_own_presets()
            own = [word for word in overrides if not word.startswith(("resume=", "ckpt_path="))]
            check(composed(*own))
        elif words[0] == "lenet-pl":
            assert words[1] in COMMANDS
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file()
        else:
            assert words[0] in {"pip", "pytest", "git", "cd", "tensorboard", "uv", "bash"}, line


def test_the_readme_has_the_two_commands():
    commands = readme_commands()
    assert "pip install -e . && python train.py trainer.max_epochs=20" in commands
    assert 'pip install -e ".[dev]" && pytest' in commands


def test_constraints_name_versions_and_nothing_else():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][\w.]*", line) for line in lines)
    names = {line.split("==")[0].lower() for line in lines}
    assert {"torch", "torchvision", "pytorch-lightning", "hydra-core", "omegaconf"} <= names


@pytest.mark.parametrize("words", [["--help"], ["optimizer.lrr=1"], ["trainer.max_epochs=abc"]])
def test_help_and_typing_errors_do_not_wait_for_torch(words):
    script = (
        "import runpy, sys\n"
        f"sys.argv = ['train.py', *{words!r}]\n"
        "try:\n"
        f"    runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
        "finally:\n"
        "    print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
