"""Findings on what a network gets wrong, and on what its figures are worth."""

import torch
from torch import Tensor

from lenet_pl.console import percent
from lenet_pl.metrics import expected_calibration_error, per_class_scores, wilson_interval
from lenet_pl.report.figures import Figures, Finding, Z, beyond_chance
from lenet_pl.report.learning import overfitting

ENOUGH = 20  # mistakes, or images of a class: fewer say nothing of a pattern
TOP = 3  # pairs
PAIRS_SHARE = 1 / 3  # of the mistakes: to mend these alone would be felt
ECE = 0.01  # a confidence that is a point off on average misleads nobody
DRAWS, QUANTILE = 200, 0.99  # of sound networks; one in a hundred looks as bad by chance
SMOOTHING = 1 / 6  # of labels, by what confidence is to lose: 0.006 took 0.03 on mini
CLAIM = 0.3  # probability; two classes with that much each, and neither is far ahead
CLAIMED = 3  # images, from which on a look is worth it
GOOD = 0.9  # accuracy, below which a doubt is the network's and not the image's
BEHIND = 0.02  # two points of recall
Z_CLASSES = 2.81  # the quantile for a 5 % chance of a false alarm among ten classes
SMALL = 1000  # training images per class


def confused_pairs(matrix: Tensor) -> list[tuple[int, int, int]]:
    """Two classes and how often either was taken for the other, the most often first."""
    both = (matrix + matrix.T).triu(1)
    pairs = [(int(both[a, b]), int(a), int(b)) for a, b in both.nonzero()]
    return [(a, b, n) for n, a, b in sorted(pairs, key=lambda pair: -pair[0])]


def few_pairs(f: Figures) -> Finding | None:
    """Three pairs of classes make up more of the mistakes than an even spread explains."""
    pairs, mistakes = confused_pairs(f.matrix)[:TOP], f.mistakes
    share = sum(n for *_, n in pairs) / max(1, mistakes)
    if mistakes < ENOUGH or share < PAIRS_SHARE:
        return None
    if share <= evenly_spread(mistakes, len(f.classes)):
        return None
    named = ", ".join(f"{f.classes[a]} and {f.classes[b]} ({n})" for a, b, n in pairs)
    advice, override = _more_variety(f)
    return Finding(
        "A few pairs of classes make up much of the errors",
        f"{named}: {100 * share:.0f} % of the {mistakes} validation mistakes.",
        advice,
        (override,),
    )


def evenly_spread(mistakes: int, classes: int) -> float:
    """The share of the top pairs that one in a hundred evenly spread sets of mistakes exceeds."""
    generator = torch.Generator().manual_seed(0)
    pairs = classes * (classes - 1) // 2
    fallen = torch.randint(pairs, (DRAWS, mistakes), generator=generator)
    counts = torch.zeros(DRAWS, pairs).scatter_add_(1, fallen, torch.ones(DRAWS, mistakes))
    top = counts.topk(min(TOP, pairs)).values.sum(1)
    return top.quantile(QUANTILE).item() / mistakes


def weak_class(f: Figures) -> Finding | None:
    """A class whose recall lies behind the others' beyond chance."""
    scores = per_class_scores(f.matrix)
    worst = min(range(len(scores)), key=lambda c: scores[c].recall if scores[c].support else 1.0)
    found = scores[worst]
    hits, others = int(f.matrix[worst, worst]), f.val.total - found.support
    if found.support < ENOUGH or not others:
        return None
    rest = (f.val.count - hits) / others
    if wilson_interval(hits, found.support, Z_CLASSES)[1] > rest or rest - found.recall < BEHIND:
        return None
    row = f.matrix[worst].clone()
    row[worst] = 0
    taken = int(row.argmax())
    advice, override = _more_variety(f)
    return Finding(
        f"Class {f.classes[worst]} is found less often than the others",
        f"Recall {percent(found.recall)} ({hits} of {found.support} validation images), the "
        f"others {percent(rest)}; it is most often taken for {f.classes[taken]} ({int(row[taken])} "
        f"times).",
        advice,
        (override,),
    )


def miscalibration(f: Figures) -> Finding | None:
    """Confidence and accuracy are further apart than a calibrated network's would be by chance.

    Source: J. Bröcker, L. A. Smith, "Increasing the reliability of reliability diagrams",
    Weather and Forecasting 22 (2007), p. 651: consistency resampling.
    """
    error = expected_calibration_error(f.logits, f.labels)
    confidence = f.logits.double().softmax(1).amax(1)
    if error < ECE or error < by_chance(confidence):
        return None
    sure, right, smoothing = confidence.mean().item(), f.val.value, f.settings.label_smoothing
    over = sure > right
    wanted = round(max(0.0, smoothing + (sure - right) * SMOOTHING), 3)
    if over or smoothing:
        advice = f"{'More' if over else 'Less'} label smoothing; a little does much."
        override = f"loss.label_smoothing={wanted:g}"
    else:
        advice, override = "More epochs.", f"trainer.max_epochs={2 * len(f.rows)}"
    return Finding(
        f"It is {'over' if over else 'under'}confident",
        f"Its mean confidence is {percent(sure)}, its accuracy {percent(right)}; the expected "
        f"calibration error is {error:.3f} (validation).",
        advice,
        (override,),
    )


def by_chance(confidence: Tensor, bins: int = 15) -> float:
    """The calibration error that one in a hundred perfectly calibrated networks exceeds.

    Args:
        confidence: float64 ``[N]``; each draw is right with that probability.
    """
    generator = torch.Generator().manual_seed(0)
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    errors = []
    for _ in range(DRAWS):
        right = torch.rand(len(confidence), generator=generator, dtype=torch.double) < confidence
        gaps = torch.bincount(place, right.double() - confidence, minlength=bins)
        errors.append(gaps.abs().sum() / len(confidence))
    return torch.stack(errors).quantile(QUANTILE).item()


def claimed(logits: Tensor) -> Tensor:
    """Indices of images that two classes claim, the closest call first."""
    best, second = logits.double().softmax(1).topk(2).values.T
    found = (second > CLAIM).nonzero().flatten()
    return found[(best - second)[found].argsort(stable=True)]


def ambiguous(f: Figures) -> Finding | None:
    """Images of which a good network cannot say which of two classes they are."""
    found = claimed(f.logits)
    if f.val.value < GOOD or len(found) < CLAIMED:
        return None
    pairs = f.logits[found].topk(2).indices.tolist()
    first = found[:6].tolist()
    places = [f.files[i] for i in first] if f.files else f.indices[first].tolist()
    where = "In all files, training then test" if f.pooled else "In the training file"
    names = [
        f"{place} ({f.classes[a]} or {f.classes[b]})"
        for place, (a, b) in zip(places, pairs, strict=False)
    ]
    wrong = int((f.logits[found].argmax(1) != f.labels[found]).sum())
    return Finding(
        "Some images are claimed by two classes, and may be ambiguous or mislabelled",
        f"{len(found)} validation images have two classes above {100 * CLAIM:.0f} %, and "
        f"{wrong} of them are among the {f.mistakes} mistakes. "
        f"{'Files' if f.files else where}: {', '.join(names)}.",
        "Look at them; cross-validation lists the training labels that are in doubt.",
        ("data.suspect_folds=5",),
    )


def unlike_test(f: Figures) -> Finding | None:
    """Validation and test accuracy differ beyond chance."""
    if f.test is None or abs(beyond_chance(f.val, f.test)) < Z:
        return None
    below = f.test.value < f.val.value
    return Finding(
        "The test images are harder than validation told"
        if below
        else "The test images are easier than validation told",
        f"Validation {percent(f.val.value)} of {f.val.total:,}, test {percent(f.test.value)} of "
        f"{f.test.total:,}: {abs(beyond_chance(f.val, f.test)):.1f} standard errors apart.",
        "Nothing to tune here: quote the test figure, and go on choosing by validation.",
        (),
    )


def small_data(f: Figures) -> Finding | None:
    """Few images of each class, and a network that knows them by heart."""
    per_class = f.trained_on / len(f.classes)
    if per_class >= SMALL or not overfitting(f):
        return None
    overrides: tuple[str, ...]
    if f.settings.fraction < 1:
        advice, overrides = "All of them.", ("data.fraction=1.0",)
    elif f.settings.data == "mini":
        advice, overrides = "All 60,000 digits.", ("data=mnist",)
    else:
        advice = "A network that has seen other images before."
        overrides = ("model=pretrained", "model.weights=DEFAULT")
    return Finding(
        "There is little to learn from",
        f"{per_class:,.0f} training images of each class, of which {percent(f.train.value)} are "
        f"right: the network could learn from more.",
        advice,
        overrides,
    )


def _more_variety(f: Figures) -> tuple[str, str]:
    if not f.settings.augment:
        return "Turned, shifted and sheared copies of what it confuses.", "augment=affine"
    longer = f"trainer.max_epochs={2 * len(f.rows)}"
    return "More epochs, in each of which augmentation shows other images.", longer
