"""The user's own images: a folder for each class, side by side or in train, val and test."""

import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from lenet_pl.data.loader import ImageDataset
from lenet_pl.data.preprocess import NO_DIGIT, Auto, open_image, preprocess
from lenet_pl.data.source import RawDataset
from lenet_pl.errors import DataError

SPLIT_NAMES = {name: name for name in ("train", "val", "test")}
SPLIT_NAMES |= {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
IMAGE_SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".gif", ".webp"),
    *(".pbm", ".pgm", ".pnm", ".ppm"),
    *(".avif", ".heic", ".heif", ".jp2", ".jxl"),  # not decoded, but not silently ignored
}
WAY_OUT = (
    "for images other than digits, use data.source.channels=3 (colour), or "
    "data.source.centre=false data.source.invert=false"
)
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # the last are not UTF-8 on disk


class Folder:
    """Images in PNG, JPEG, BMP, TIFF and other formats, of any size and mode.

    ``root`` has a folder of images for each class, or folders ``train``, ``test`` and optionally
    ``val`` (``valid``, ``validation``) that do. Subfolders are searched too.
    ``conf/data/folder.yaml`` describes the other arguments.
    """

    name = family = "folder"
    centred = True  # unless ``centre`` is false

    def __init__(
        self, root: str | None, invert: Auto, centre: Auto, size: int, channels: int
    ) -> None:
        self.root = root
        self.convert = partial(
            preprocess, size=size, channels=channels, invert=invert, centre=centre
        )

    def prepare(self) -> str:
        options = self.convert.keywords
        for name in ("centre", "invert"):
            if options["channels"] == 3 and options[name] is True:
                raise DataError(
                    f"data.source.{name}=true: for images of digits, which are grey "
                    f"(data.source.channels=1); with data.source.channels=3, leave it at auto"
                )
        if self.root is None:
            raise DataError("data.root=null: name the folder of the images: data.root=DIR")
        if not Path(self.root).is_dir():
            raise self._error("no such folder")
        return f"images in {self.root}"

    def paths(self) -> Iterable[Path]:
        return image_files(Path(self.root)) if self.root else ()

    def load(self) -> RawDataset:
        origin = self.prepare()
        root = Path(str(self.root))
        splits = self._splits(root)
        classes = self._classes(splits)
        data: dict[str, ImageDataset] = {}
        files: dict[str, list[str]] = {}
        broken: dict[str, str] = {}
        ignored: list[str] = []
        for split in ("train", "val", "test"):  # empty if there is no such folder
            folders = splits.get(split, {})
            data[split], files[split], failed = read_images(root, folders, classes, self.convert)
            failed = {k: f"{v}; {WAY_OUT}" if v == NO_DIGIT else v for k, v in failed.items()}
            broken |= failed
            others = (file for x in folders.values() for file in image_files(x, others=True))
            ignored += sorted(_shown(file, root) for file in others)
            least = (2 if split == "train" else 1) if folders else 0
            counts = torch.bincount(data[split].labels, minlength=len(classes)).tolist()
            for name, n in zip(classes, counts, strict=True):
                if n >= least:
                    continue
                prefix = f"{split}/" if len(splits) > 1 else ""
                kind = "that can be read" if failed else "(PNG, JPEG, BMP, TIFF and so on)"
                example = next((f"; {file}: {reason}" for file, reason in failed.items()), "")
                raise self._error(
                    f"class folder {prefix}{name} has {n} image{'s' * (n != 1)} {kind}; "
                    f"a class needs at least {least}{example}"
                )
        train, val, test = data.values()
        return RawDataset(train, test, classes, origin, val, files, broken, ignored)

    def _splits(self, root: Path) -> dict[str, dict[str, Path]]:
        """The class folders of each split; all as ``train`` if there are no folders of splits."""
        folders = class_folders(root)
        official = {
            name: classes
            for name, folder in sorted(folders.items())
            if name.lower() in SPLIT_NAMES and (classes := class_folders(folder))
        }
        if not official:
            inner = [frozenset(class_folders(folder)) for folder in folders.values()]
            if len(inner) > 1 and len(inner[0]) > 1 and len(set(inner)) == 1:
                outer, names = map(_listed, (folders, inner[0]))
                raise self._error(
                    f"{outer} all have the subfolders {names}: name splits "
                    "train/ and test/, and put the classes inside them (train/CLASS, test/CLASS)"
                )
            return {"train": folders}
        if others := sorted(folders.keys() - official.keys()):
            raise self._error(f"{others[0]}/ stands beside {', '.join(official)}; it is neither")
        splits: dict[str, dict[str, Path]] = {}
        for name, classes in official.items():
            if (split := SPLIT_NAMES[name.lower()]) in splits:
                raise self._error(f"has more than one folder for {split}; keep one of them")
            splits[split] = classes
        if missing := [name for name in ("train", "test") if name not in splits]:
            raise self._error(
                f"has {', '.join(f'{name}/' for name in official)} but no {missing[0]}/; add "
                "it, or put the class folders side by side for a split by data.split"
            )
        return splits

    def _classes(self, splits: Mapping[str, Mapping[str, Path]]) -> tuple[str, ...]:
        """The sorted names of the class folders, which must be the same in each split."""
        classes = tuple(sorted(splits["train"]))
        if unprintable := list(filter(UNPRINTABLE.search, classes)):
            raise self._error(
                f"class folder {unprintable[0]!r} has control characters, or bytes that are not "
                "UTF-8, in its name; rename it"
            )
        for name, other in pairwise(sorted(classes, key=str.casefold)):
            if name.casefold() == other.casefold():
                raise self._error(
                    f"class folders {name} and {other} differ by case only; merge or rename one"
                )
        for split, folders in splits.items():
            if different := folders.keys() ^ set(classes):
                raise self._error(
                    f"train/ and {split}/ have different classes: {_listed(different)} in "
                    "one of them only; each class needs a folder in both"
                )
        if len(classes) < 2:
            content = f"one class folder only ({classes[0]})" if classes else "no class folder"
            advice = (
                "put the images of each class into a folder of its own, with at least two classes"
            )
            if classes and len(class_folders(splits["train"][classes[0]])) > 1:
                advice = f"try data.root={self.root}/{classes[0]}"
            raise self._error(f"has {content}; {advice}")
        return classes

    def _error(self, problem: str) -> DataError:
        return DataError(f"data.root={self.root}: {problem}")


def image_files(folder: Path, others: bool = False) -> Iterator[Path]:
    """Files with the suffix of an image (or all others), except what systems leave behind.

    Subfolders are searched too. Links to folders are followed, and each folder is entered once
    since links may form cycles.
    """
    entered = set()
    for parent, subfolders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(parent)) in entered:
            subfolders.clear()
            continue
        entered.add(real)
        subfolders[:] = [name for name in subfolders if not name.startswith((".", "__"))]
        for name in files:
            is_image = Path(name).suffix.lower() in IMAGE_SUFFIXES
            if is_image != others and not name.startswith("."):
                yield Path(parent, name)


def _listed(names: Iterable[str]) -> str:
    """The first five names, and how many more there are."""
    first, rest = sorted(names)[:5], len([*names]) - 5
    return ", ".join(first) + (f" and {rest} more" if rest > 0 else "")


def _shown(path: Path, root: Path) -> str:
    return UNPRINTABLE.sub(lambda x: ascii(x[0])[1:-1], path.relative_to(root).as_posix())


def class_folders(folder: Path) -> dict[str, Path]:
    """The subfolders by name, except those that systems and archivers leave behind."""
    paths = (path for path in folder.iterdir() if path.is_dir())
    return {path.name: path for path in paths if not path.name.startswith((".", "__"))}


def read_images(
    root: Path,
    folders: Mapping[str, Path],
    classes: Sequence[str],
    convert: Callable[[Image.Image], Tensor],
) -> tuple[ImageDataset, list[str], dict[str, str]]:
    """Read all images in the folders of classes, and convert them to the same shape.

    Returns the images and labels; the file of each, relative to ``root``; and by file, why an image
    could not be read.
    """
    from rich.progress import track  # predictions import this module and need no progress bar

    def read(path: Path) -> Tensor | str:
        try:
            return convert(open_image(path))
        except DataError as error:
            return str(error).removeprefix(f"{path}: ")

    paths = [(path, name) for name, folder in folders.items() for path in image_files(folder)]
    # by file name, then class, so that an exported data set keeps its order
    paths.sort(key=lambda item: (item[0].name, item[0].as_posix()))
    Image.init()  # before threads do
    console = Console(stderr=True)
    progress: Any = {"total": len(paths), "console": console, "disable": not console.is_terminal}
    images, labels, files, broken = [], [], [], {}
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # an image is read or it is not
        read_all = pool.map(read, [path for path, _ in paths])
        results = track(read_all, "reading images", transient=True, **progress)
        for (path, name), result in zip(paths, results, strict=True):
            file = _shown(path, root)
            if isinstance(result, str):
                broken[file] = result
            else:
                images.append(result)
                labels.append(classes.index(name))
                files.append(file)
    stacked = torch.stack(images) if images else torch.empty(0, 1, 1, 1).byte()
    return ImageDataset(stacked, torch.tensor(labels, dtype=torch.long)), files, broken
