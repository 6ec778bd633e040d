"""Labels that a network trained on the other images does not believe.

Source: C. G. Northcutt, L. Jiang, I. L. Chuang, "Confident learning: estimating uncertainty in
dataset labels", J. Artif. Intell. Res. 70 (2021), section 3.1: thresholds are the classes' mean
self-confidence, here of probabilities that are out of sample by cross-validation.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lenet_pl.data.mnist import ImageDataset
from lenet_pl.data.split import stratified_split

EPOCHS = 5
BATCH = 128


def suspects(
    data: ImageDataset, index: Tensor, classes: Sequence[str], folds: int, seed: int
) -> list[dict[str, Any]]:
    """Images that are probably labelled wrongly, the most confident first; a list to look at.

    Args:
        data: the training images, on the CPU.
        index: where each stood in its file.
        classes: the names of the labels.
        folds: into how many parts the images are split; each is judged by a network that was
            trained on the others.
        seed: of the folds and the networks; the global generator is left as it was.

    Returns:
        For each, its index, its label, the class ``suggested`` instead, and the probabilities of
        the two.
    """
    probabilities = out_of_fold(data, len(classes), folds, seed)
    found = doubted(probabilities, data.labels)
    return [
        {
            "index": int(index[i]),
            "label": classes[int(data.labels[i])],
            "suggested": classes[other],
            "confidence": round(float(probabilities[i, other]), 4),
            "confidence_in_label": round(float(probabilities[i, data.labels[i]]), 4),
        }
        for i, other in found
    ]


def doubted(probabilities: Tensor, labels: Tensor) -> list[tuple[int, int]]:
    """Positions and likelier classes, by falling probability of these.

    A label is doubted if its probability is below its class's mean self-confidence while that of
    another class is not below that class's own.

    Args:
        probabilities: float [N, classes], each from a network that has not seen the image.
        labels: int64 [N].
    """
    own = probabilities.gather(1, labels[:, None]).flatten()
    sums = torch.zeros(probabilities.shape[1]).index_add_(0, labels, own)
    thresholds = sums / torch.bincount(labels, minlength=len(sums)).clamp(min=1)
    others = probabilities.scatter(1, labels[:, None], -1.0)
    confident = others.where(others >= thresholds, -1.0)
    best, suggested = confident.max(1)
    doubt = ((best >= 0) & (own < thresholds[labels])).nonzero().flatten()
    order = doubt[best[doubt].argsort(descending=True, stable=True)]
    return list(zip(order.tolist(), suggested[order].tolist(), strict=True))


def out_of_fold(data: ImageDataset, classes: int, folds: int, seed: int) -> Tensor:
    """Probabilities ``[N, classes]``, those of each fold from a network trained on the others."""
    total = len(data)
    sizes = [total * (k + 1) // folds - total * k // folds for k in range(1, folds)]
    pixels = data.images.flatten(1).float().div_(255)
    pixels -= pixels.mean()
    pixels /= pixels.std()
    probabilities = torch.empty(total, classes)
    for number, fold in enumerate(stratified_split(data.labels, sizes, seed)):
        others = torch.from_numpy(np.setdiff1d(np.arange(total), fold.numpy()))
        net = _trained(pixels, data.labels, others, classes, seed + number)
        with torch.no_grad():
            probabilities[fold] = net(pixels[fold]).softmax(1)
    return probabilities


def _trained(pixels: Tensor, labels: Tensor, index: Tensor, classes: int, seed: int) -> nn.Module:
    """A multilayer perceptron after a few epochs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(pixels.shape[1], 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, classes)
        )
        steps = -(-len(index) // BATCH) * EPOCHS
        optimizer = torch.optim.Adam(net.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.003, total_steps=steps)
        for _ in range(EPOCHS):
            for batch in index[torch.randperm(len(index))].split(BATCH):
                loss = nn.functional.cross_entropy(net(pixels[batch]), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return net.eval()
