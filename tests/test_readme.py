"""Commands and links in the documentation are valid, and the constraints name versions only."""

import re
import shlex

import pytest
import yaml
from helpers.commands import ROOT
from helpers.runs import result

from lenet_pl import __version__
from lenet_pl.cli import COMMANDS, prefer_own_presets
from lenet_pl.config import check
from lenet_pl.training import train

DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def documented_commands() -> list[str]:
    """The lines of all bash blocks, and the commands inline."""
    text = "\n".join(path.read_text() for path in DOCS)
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    inline = re.findall(r"`((?:python train\.py|lenet-pl) [^`…]*)`", text)
    return [line for line in lines + inline if line and not line.startswith("#")]


@pytest.mark.parametrize("line", documented_commands())
def test_documented_command_parses(composed, line):
    for part in line.split(" && "):
        words = shlex.split(part)
        if words[:2] in (["python", "train.py"], ["lenet-pl", "train"]):
            words = [word for word in words[2:] if word not in ("-m", "--help")]
            overrides = [re.sub(r"=([^\[,]*),.*", r"=\1", word) for word in words]
            prefer_own_presets()
            folders = ("resume=", "from=", "ckpt_path=", "hydra.sweep.dir=")
            check(composed(*(x for x in overrides if not x.startswith(folders))), single=True)
        elif words[0] == "lenet-pl":
            assert words[1] in COMMANDS
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file()
        else:
            programs = {
                "git",
                "cd",
                "python3",
                "source",
                "eval",
                "complete",
                "pip",
                "pytest",
                "tensorboard",
                "uv",
            }
            assert words[0] in programs, line


def test_completion_offers_every_command():
    [line] = [line for line in documented_commands() if line.startswith("complete")]
    assert shlex.split(line)[4].split() == ["train", *COMMANDS]


def test_one_epoch_on_the_mini_set_learns(composed, tmp_path):
    [line] = [line for line in documented_commands() if "profiler" in line]
    overrides = [*shlex.split(line)[2:], "trainer.profiler=null", "logger=none"]
    train(composed(*overrides))
    assert result(tmp_path / "run")["metrics"]["test/acc"] > 0.8  # seed 0: 0.911


def test_readme_has_the_two_commands():
    commands = (ROOT / "README.md").read_text().splitlines()
    assert "pip install -e . && python train.py trainer.max_epochs=20" in commands
    assert 'pip install -e ".[dev]" && pytest' in commands


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180


def test_chinese_readme_has_the_same_commands_figures_and_files():
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README.zh-CN.md"))
    english = english.replace("README.zh-CN.md", "README.md")  # each links to the other
    for pattern in (
        r"^```console\n.*?^```",
        r"`[^`\n]+`",  # commands, options and paths within the text
        r"\d[\d.,]*\d|\d",  # figures
        r"\]\(([^)]+)\)",  # links
        r"^#+ ",
    ):
        find = re.compile(pattern, re.DOTALL | re.MULTILINE)
        assert sorted(find.findall(chinese)) == sorted(find.findall(english)), pattern
    assert code_without_comments(chinese) == code_without_comments(english)


def code_without_comments(text: str) -> list[str]:
    blocks = re.findall(r"^```\w*\n.*?^```", text, re.DOTALL | re.MULTILINE)
    comment = re.compile(r"(?<=[^\s│])  +\S.*|^# .*| +---.*")
    return [comment.sub("", line) for block in blocks for line in block.splitlines()]


def test_citation_has_the_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__


@pytest.mark.parametrize(
    "path",
    [*DOCS, ROOT / "README.zh-CN.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"],
    ids=lambda path: path.name,
)
def test_links_lead_to_files_and_headings(path):
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        linked = path.parent / file if file else path
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)", linked.read_text(), re.MULTILINE)
            assert anchor in [heading.lower().replace(" ", "-") for heading in headings], target


def test_file_tree_lists_every_module():
    text = (ROOT / "README.md").read_text()
    tree = re.search(r"```\n(train\.py .*?)```", text, re.DOTALL)
    assert tree
    folders: list[str] = []
    listed = []
    for prefix, name in re.findall(r"^([│├└─ ]*)([\w./]+)", tree[1], re.MULTILINE):
        folders[len(prefix) // 4 :] = [name]
        if folders[0] == "src/lenet_pl/" and name.endswith(".py"):
            listed.append("".join(folders))
    modules = (ROOT / "src" / "lenet_pl").rglob("*.py")
    names = [path.relative_to(ROOT).as_posix() for path in modules if path.stem != "__init__"]
    assert sorted(listed) == sorted(names)


def test_constraints_name_versions_and_nothing_else():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][\w.]*", line) for line in lines)
    names = {line.split("==")[0].lower() for line in lines}
    assert {"torch", "torchvision", "pytorch-lightning", "hydra-core", "omegaconf"} <= names
