"""A run to evaluate, copies of it that were trained otherwise, and a folder of images."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image

from lenet_pl.data.mnist import Mini


@pytest.fixture(scope="module")
def run(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that may be written to."""
    return Path(shutil.copytree(trained, tmp_path_factory.mktemp("tested") / "run"))


@pytest.fixture
def configured(run: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copy the run and change its configuration: keys with ``__`` for dots, and values."""

    def copy(**changes: object) -> Path:
        folder = tmp_path / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(run, folder)
        cfg = OmegaConf.load(folder / ".hydra" / "config.yaml")
        for key, value in changes.items():
            OmegaConf.update(cfg, key.replace("__", "."), value)
        OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
        return folder

    return copy


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """The first 40 test digits as PNG in class folders, and ``cut.png``, which is truncated."""
    test = Mini().load().test
    for i in range(40):
        folder = tmp_path / "mine" / str(test.labels[i].item())
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - test.images[i, 0].numpy()).resize((84, 84)).save(folder / f"{i}.png")
    content = (folder / f"{i}.png").read_bytes()
    (folder / "cut.png").write_bytes(content[: len(content) // 2])
    return tmp_path / "mine"
