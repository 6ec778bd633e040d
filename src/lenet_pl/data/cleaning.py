"""What is wrong with the images of a data set: found exactly, and taken out of training only."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lenet_pl.data.mnist import RawDataset
from lenet_pl.data.split import Part, in_range
from lenet_pl.errors import DataError

Findings = dict[str, Any]


def check_labels(official: RawDataset, clean: bool) -> list[int]:
    """The training images whose label is no class, which cleaning leaves out.

    Raises:
        DataError: if there are some and they are not to be left out, or are not training's.
    """
    wrong: dict[str, list[int]] = {}
    for name, lot in official.splits().items():
        outside = torch.ones(len(lot), dtype=torch.bool)
        outside[in_range(lot.labels, len(official.classes))] = False
        wrong[name] = outside.nonzero().flatten().tolist()
        if wrong[name] and (name != "train" or not clean):
            many = ", …" if len(wrong[name]) > 5 else ""
            way_out = "data.clean=true leaves them out" if name == "train" else "mend the files"
            raise DataError(
                f"data: labels of {name} are out of range 0 to {len(official.classes) - 1}, at "
                f"{', '.join(map(str, wrong[name][:5]))}{many} ({len(wrong[name]):,} images); "
                f"{way_out}"
            )
    return wrong["train"]


def inspect(
    parts: Mapping[str, Part], classes: Sequence[str], out_of_range: Sequence[int] = ()
) -> tuple[Findings, Tensor]:
    """Look for images that should not be trained on.

    Each is counted once, as the first of these that it is: *blank*, all its pixels the same;
    *leaked*, the very image of one in validation or test; *duplicate* of an earlier training
    image. *Conflicts* are the very same image under different labels, wherever they stand; of
    these nothing is removed that is not one of the former.

    Args:
        parts: ``train`` and what is held out.
        classes: the names of the labels.
        out_of_range: training images that are in no part, since their label is no class.

    Returns:
        What was found, by the indices of :class:`Part`, in plain types; and the positions in the
        training part that stay.
    """
    seen: dict[bytes, list[tuple[str, int, int]]] = defaultdict(list)  # part, index and label
    blank, duplicates, leaked, stays = [], [], [], []
    images = {name: part.take() for name, part in parts.items()}
    for name in sorted(images, key="train".__eq__):  # training last, to be compared with the rest
        flat = images[name].images.flatten(1)
        constant = (flat.min(1).values == flat.max(1).values).tolist()
        labels, index = images[name].labels.tolist(), parts[name].index.tolist()
        for position, row in enumerate(flat.numpy()):
            here = (name, index[position], labels[position])
            before = [] if constant[position] else seen[hashlib.sha256(row).digest()]
            first = before[0] if before else None
            if name == "train" and constant[position]:
                blank.append(here[1])
            elif name == "train" and first and first[0] != "train":
                leaked.append({"index": here[1], "split": first[0], "of": first[1]})
            elif name == "train" and first:
                duplicates.append({"index": here[1], "of": first[1]})
            elif name == "train":
                stays.append(position)
            before.append(here)
    conflicts = [
        [{"split": name, "index": index, "label": classes[label]} for name, index, label in group]
        for group in seen.values()
        if len({label for *_, label in group}) > 1
    ]
    lists = {
        "labels_out_of_range": list(out_of_range),
        "blank": blank,
        "leaked": leaked,
        "duplicates": duplicates,
    }
    total = len(images["train"]) + len(out_of_range)
    found: Findings = {
        "images": total,
        "removed": total - len(stays),
        "counts": {name: len(items) for name, items in {**lists, "conflicts": conflicts}.items()},
        **lists,
        "conflicts": conflicts,
    }
    return found, torch.tensor(stays, dtype=torch.long)


def mentioned(found: Findings) -> dict[str, set[int]]:
    """The indices that findings speak of, by split."""
    indices: dict[str, set[int]] = defaultdict(set)
    indices["train"].update(found.get("blank", ()), found.get("labels_out_of_range", ()))
    for name in ("leaked", "duplicates", "suspects"):
        for item in found.get(name, ()):
            indices["train"].add(item["index"])
            if "of" in item:
                indices[item.get("split", "train")].add(item["of"])
    for image in (image for group in found.get("conflicts", ()) for image in group):
        indices[image["split"]].add(image["index"])
    return indices


def in_words(found: Findings) -> str:
    """``3 of 5,000 training images removed: 1 blank, 2 duplicates``"""
    counts = {name.replace("_", " "): n for name, n in found["counts"].items() if n}
    conflicts = counts.pop("conflicts", 0)
    what = ", ".join(f"{n:,} {name}" for name, n in counts.items()) or "nothing was wrong"
    said = f"{found['removed']:,} of {found['images']:,} training images removed: {what}"
    return said + (f"; {conflicts:,} images under several labels" if conflicts else "")
