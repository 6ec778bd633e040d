"""One's own pictures: a folder for each class, as they are or in train, val and test folders."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lenet_pl.data.ink import Auto
from lenet_pl.data.mnist import ImageDataset, RawDataset
from lenet_pl.data.pictures import read
from lenet_pl.data.preprocess import SIDE
from lenet_pl.errors import DataError

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
LISTED = 5  # names in a message


class Folder:
    """Pictures in PNG, JPEG, BMP, TIFF and so on, of any size and mode, made grey 28 × 28.

    Args:
        root: holds a folder of pictures for each class; or ``train`` and ``test``, and ``val``
            (``valid``, ``validation``) where there is one, which hold these. Pictures may lie in
            folders within. Sorted by file name, then by class.
        invert: whether the pictures are dark on light; ``auto`` looks at each one's border.
        centre: whether to crop and centre as for MNIST; ``auto`` leaves 28 × 28 as they are.
    """

    name = "folder"

    def __init__(
        self,
        root: str | None,
        invert: Auto = "auto",
        centre: Auto = "auto",
    ) -> None:
        self.given = root
        self.invert: Auto = invert
        self.centre: Auto = centre

    def prepare(self) -> str:
        if self.given is None:
            raise DataError("data.root=null: name the folder of the pictures: data.root=DIR")
        if not Path(self.given).is_dir():
            raise DataError(f"data.root={self.given}: no such folder")
        return f"pictures in {self.given}"

    def load(self) -> RawDataset:
        origin = self.prepare()
        root = Path(str(self.given))
        lots = self._lots(root)
        classes = self._classes(lots)
        split = len(lots) > 1
        loaded: dict[str, ImageDataset] = {}
        names: dict[str, list[str]] = {}
        broken: dict[str, str] = {}
        for lot, folders in lots.items():
            pictures = read(root, folders, classes, self.invert, self.centre)
            loaded[lot], names[lot] = pictures.labelled, pictures.names
            broken |= pictures.broken
            labels = pictures.labelled.labels
            self._check_counts(lot if split else "", labels, classes, bool(pictures.broken))
        none = ImageDataset(torch.empty(0, 1, SIDE, SIDE, dtype=torch.uint8), torch.empty(0).long())
        test = loaded.get("test", none)
        return RawDataset(loaded["train"], test, classes, origin, loaded.get("val"), names, broken)

    def _lots(self, root: Path) -> dict[str, dict[str, Path]]:
        """The class folders of each split there is; all of them as ``train`` if there is none."""
        top = class_folders(root)
        ready = {name for name in top if name.lower() in SPLITS and class_folders(top[name])}
        if not ready:
            return {"train": top}
        lots: dict[str, dict[str, Path]] = {}
        for name in sorted(top):
            split = SPLITS.get(name.lower())
            if split is None or name not in ready:
                raise self._error(
                    f"{name}/ stands beside {', '.join(sorted(ready))}; it is neither"
                )
            if split in lots:
                raise self._error(f"has more than one folder for {split}; keep one of them")
            lots[split] = class_folders(top[name])
        if missing := [name for name in ("train", "test") if name not in lots]:
            raise self._error(
                f"has {', '.join(f'{name}/' for name in sorted(ready))} but no {missing[0]}/; add "
                "it, or put the class folders side by side for a split by data.split"
            )
        return {name: lots[name] for name in ("train", "val", "test") if name in lots}

    def _classes(self, lots: dict[str, dict[str, Path]]) -> tuple[str, ...]:
        """The names of the class folders, sorted; the same in each split."""
        for split, folders in lots.items():
            seen: dict[str, str] = {}
            for name in folders:
                if (other := seen.setdefault(name.casefold(), name)) != name:
                    raise self._error(
                        f"class folders {other} and {name} differ by case only; merge or rename one"
                    )
            if odd := sorted(folders.keys() ^ lots["train"].keys()):
                raise self._error(
                    f"train/ and {split}/ have different classes: {_some(odd)} in one of them "
                    "only; each class needs a folder in both"
                )
        classes = tuple(sorted(lots["train"]))
        if len(classes) < 2:
            found = f"one class folder only ({classes[0]})" if classes else "no class folder"
            raise self._error(
                f"holds {found}; put the pictures of each class into a folder of its own, "
                "two classes at least"
            )
        return classes

    def _check_counts(
        self, split: str, labels: Tensor, classes: Sequence[str], broken: bool
    ) -> None:
        least = 2 if split in ("", "train") else 1
        counts = torch.bincount(labels, minlength=len(classes)).tolist()
        few = [(name, n) for name, n in zip(classes, counts, strict=True) if n < least]
        if few:
            name, n = few[0]
            where = f"{split}/{name}" if split else name
            more = f" (and {len(few) - 1} other classes too few)" if few[1:] else ""
            kind = "that can be read" if broken else "(PNG, JPEG, BMP, TIFF and so on)"
            raise self._error(
                f"class folder {where} holds {n} picture{'s' * (n != 1)} {kind}{more}; "
                f"a class needs {least} at least"
            )

    def _error(self, problem: str) -> DataError:
        return DataError(f"data.root={self.given}: {problem}")


def class_folders(place: Path) -> dict[str, Path]:
    """The folders in a folder, less what systems and archivers leave there."""
    found = (path for path in place.iterdir() if path.is_dir())
    return {path.name: path for path in found if not path.name.startswith((".", "__"))}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
