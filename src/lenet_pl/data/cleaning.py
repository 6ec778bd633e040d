"""Training images that should not be trained on: removed if that is certain, else listed."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from lenet_pl.data.source import RawDataset
from lenet_pl.data.split import Subset, stratified_split
from lenet_pl.errors import DataError

EPOCHS, BATCH_SIZE = 5, 128  # of the networks that judge labels


def check_labels(raw: RawDataset, clean: bool) -> list[int]:
    """The indices of training images with an invalid label.

    Raises DataError if there are any and ``clean`` is false, or if there are any in another split.
    """
    removed: list[int] = []
    for name, split in raw.splits().items():
        outside = (split.labels < 0) | (split.labels >= len(raw.classes))
        wrong = outside.nonzero().flatten().tolist()
        if name == "train" and clean:
            removed = wrong
        elif wrong:
            first = ", ".join(map(str, wrong[:5])) + ", …" * (len(wrong) > 5)
            remedy = "data.clean=true removes them" if name == "train" else "correct the files"
            raise DataError(
                f"data: labels of {name} are out of range 0 to {len(raw.classes) - 1}, at {first} "
                f"({len(wrong):,} images); {remedy}"
            )
    return removed


def inspect(
    subsets: Mapping[str, Subset], classes: Sequence[str], out_of_range: Sequence[int]
) -> tuple[dict[str, Any], Tensor]:
    """Find training images that are blank, leaked or duplicates, by exact comparison.

    Each counts once, as the first of these that applies: *blank*, all pixels are equal; *leaked*,
    identical to an image in validation or test; *duplicate* of an earlier training image.
    *Conflicts* are identical images with different labels, in any split; they are only listed.

    Returns a report in plain types, with images by their index, and the positions in the training
    subset of the images to keep.
    """
    by_digest: dict[bytes, list[tuple[str, int, int]]] = defaultdict(list)  # split, index and label
    lists: dict[str, list[Any]] = {"labels_out_of_range": [*out_of_range]}
    lists |= {"blank": [], "leaked": [], "duplicates": []}
    keep = []
    for name in sorted(subsets, key="train".__eq__):  # training last, to compare it with the rest
        data = subsets[name]
        flat = data.images.flatten(1)
        columns = (flat == flat[:, :1]).all(1), data.indices, data.labels
        images = zip(flat.numpy(), *map(Tensor.tolist, columns), strict=True)
        for position, (row, is_blank, index, label) in enumerate(images):
            same = [] if is_blank else by_digest[hashlib.sha256(row).digest()]
            if name == "train":
                if is_blank:
                    lists["blank"].append(index)
                elif not same:
                    keep.append(position)
                elif same[0][0] == "train":
                    lists["duplicates"].append({"index": index, "of": same[0][1]})
                else:
                    leak = {"index": index, "split": same[0][0], "of": same[0][1]}
                    lists["leaked"].append(leak)
            same.append((name, index, label))
    lists["conflicts"] = [
        [{"split": name, "index": index, "label": classes[label]} for name, index, label in group]
        for group in by_digest.values()
        if len({label for *_, label in group}) > 1
    ]
    total = len(subsets["train"]) + len(out_of_range)
    counts = {name: len(items) for name, items in lists.items()}
    report = {"images": total, "removed": total - len(keep), "counts": counts, **lists}
    return report, torch.tensor(keep, dtype=torch.long)


def mentioned_files(
    report: Mapping[str, Any], splits: Mapping[str, Subset]
) -> dict[str, dict[str, str]]:
    """The files of all images in a report, by split and index."""
    indices: dict[str, set[int]] = defaultdict(set)
    indices["train"].update(report.get("blank", ()), report.get("labels_out_of_range", ()))
    for item in chain(*(report.get(name, ()) for name in ("leaked", "duplicates", "suspects"))):
        indices["train"].add(item["index"])
        if "of" in item:
            indices[item.get("split", "train")].add(item["of"])
    for image in chain(*report.get("conflicts", ())):
        indices[image["split"]].add(image["index"])
    return {
        name: {str(i): splits[name].files[i] for i in sorted(indices[name])} for name in indices
    }


def summary(report: Mapping[str, Any]) -> str:
    """``3 of 5,000 training images removed: 1 blank, 2 duplicates``."""
    counts = {name.replace("_", " "): n for name, n in report["counts"].items() if n}
    conflicts = counts.pop("conflicts", 0)
    reasons = ", ".join(f"{n:,} {name}" for name, n in counts.items()) or "nothing was wrong"
    text = f"{report['removed']:,} of {report['images']:,} training images removed: {reasons}"
    return text + (f"; {conflicts:,} images under several labels" if conflicts else "")


def find_label_issues(
    train: Subset, classes: Sequence[str], folds: int, seed: int
) -> list[dict[str, Any]]:
    """Find images that are probably mislabelled, for a person to look at.

    Each fold of a cross-validation is judged by a network trained on the others; the seed is that
    of the folds and networks, and the global generator is not changed. Returns for each image, by
    falling confidence: its index, its label, the class ``suggested`` instead, and the probabilities
    of the two.
    """
    total, labels = len(train), train.labels
    sizes = [total * (k + 1) // folds - total * k // folds for k in range(1, folds)]
    pixels = train.images.flatten(1).float().div_(255)
    pixels -= pixels.mean()
    pixels /= pixels.std()
    probabilities = torch.empty(total, len(classes))
    for number, fold in enumerate(stratified_split(labels, sizes, seed)):
        others = torch.ones(total, dtype=torch.bool).index_fill_(0, fold, False)
        net = _train_mlp(pixels[others], labels[others], len(classes), seed + number)
        with torch.no_grad():
            probabilities[fold] = net(pixels[fold]).softmax(1)
    return [
        {
            "index": int(train.indices[i]),
            "label": classes[int(labels[i])],
            "suggested": classes[suggested],
            "confidence": round(float(probabilities[i, suggested]), 4),
            "confidence_in_label": round(float(probabilities[i, labels[i]]), 4),
        }
        for i, suggested in confident_learning(probabilities, labels)
    ]


def confident_learning(probabilities: Tensor, labels: Tensor) -> list[tuple[int, int]]:
    """Positions of label issues with the likelier class, by falling probability of that class.

    ``probabilities [N, classes]`` are by networks that were not trained on the image. A label is
    an issue if its probability is below the mean self-confidence of its class, while that of
    another class is not below that class's own. Source: C. G. Northcutt, L. Jiang, I. L. Chuang,
    "Confident learning: estimating uncertainty in dataset labels", J. Artif. Intell. Res. 70
    (2021), section 3.1.
    """
    own = probabilities.gather(1, labels[:, None]).flatten()
    sums = torch.zeros(probabilities.shape[1]).index_add_(0, labels, own)
    thresholds = sums / torch.bincount(labels, minlength=len(sums)).clamp(min=1)
    others = probabilities.scatter(1, labels[:, None], -1.0)
    confidence, suggested = others.where(others >= thresholds, -1.0).max(1)
    issues = ((confidence >= 0) & (own < thresholds[labels])).nonzero().flatten()
    issues = issues[confidence[issues].argsort(descending=True, stable=True)]
    return list(zip(issues.tolist(), suggested[issues].tolist(), strict=True))


def _train_mlp(pixels: Tensor, labels: Tensor, classes: int, seed: int) -> nn.Module:
    """A multilayer perceptron after a few epochs on pixels ``[N, C * H * W]``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(pixels.shape[1], 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, classes)
        )
        steps = -(-len(labels) // BATCH_SIZE) * EPOCHS
        optimizer = torch.optim.Adam(net.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.003, total_steps=steps)
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(labels)).split(BATCH_SIZE):
                loss = nn.functional.cross_entropy(net(pixels[batch]), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return net.eval()
