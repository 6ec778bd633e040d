"""Findings on the learning rate: too high, too low, or a network that has hardly begun."""

from itertools import pairwise
from math import log

from lenet_pl.console import percent
from lenet_pl.report.figures import Figures, Finding

GUESSING = 1.5  # times the accuracy of guessing: what has learnt anything gets beyond that
DEAD = 1.003  # times the loss of guessing; a network that has not begun is not above it
STUCK = 0.9  # of it: hardly a start
SLOW = 0.5  # of it: an epoch that was mostly spent getting started
STEPS = 50  # in an epoch: after fewer, nothing has had time to fall
EPOCHS = 4  # fewer tell a slow fall from a slow start by nothing
FALL = 0.05  # of the training loss, in every epoch: still on its way
POOR = 0.8  # validation accuracy, below which a slow fall has cost something
RISE = 0.2  # of the training loss from one epoch to the next; a mean over an epoch is steadier
RISES = 0.2  # of the epochs; a single jump happens to anyone
NEGLIGIBLE = 0.01  # nats: below, the loss is a few hard images, and jumps without harm
COLLAPSE = 0.2  # of accuracy, from the best epoch to the last; no curve sways as far
ONE_CLASS = 0.8  # of the predictions
HARDLY = 0.2  # of the way from always answering the commonest class to being always right


def too_high(f: Figures) -> Finding | None:
    """The loss left the numbers, the network came out dead, or what was learnt was lost again."""
    lr, losses = f.settings.lr, f.column("train/loss")
    guessing = log(len(f.classes))
    tenth, third = (f"optimizer.lr={lr / by:.2g}" for by in (10, 3))
    if f.error and ("nan" in f.error or "inf" in f.error):
        return Finding(
            "The learning rate is too high: the loss stopped being a number",
            f"{f.error}; optimizer.lr is {lr:g}.",
            "A tenth of it.",
            (tenth,),
            kind="problem",
            alone=True,
        )
    if losses[-1] > DEAD * guessing and f.val.value < GUESSING / len(f.classes):
        return Finding(
            "The network died: the learning rate is too high",
            f"Validation accuracy is {percent(f.val.value)}, that of guessing, and the training "
            f"loss ended at {losses[-1]:.3f}, above the {guessing:.3f} of guessing, where the last "
            f"layer is shaken to and fro; optimizer.lr is {lr:g}.",
            "A tenth of it.",
            (tenth,),
            kind="problem",
            alone=True,
        )
    if told := collapse(f):
        return Finding(
            "The learning rate is too high: what was learnt was lost again",
            f"{told}; optimizer.lr is {lr:g}.",
            "A third of it.",
            (third,),
            kind="problem",
        )
    rises = [
        int(row["epoch"])
        for row, before, loss in zip(f.rows[1:], losses, losses[1:], strict=False)
        if loss > (1 + RISE) * before and loss > NEGLIGIBLE
    ]
    if len(rises) < 2 or len(rises) < RISES * (len(losses) - 1):
        return None
    named = ", ".join(map(str, rises[:5])) + (" …" if len(rises) > 5 else "")
    calm = f.val.value > 0.9 and not f.settings.scheduler
    return Finding(
        "The training loss jumps about: the learning rate is too high"
        + (" for the end of training" if calm else ""),
        f"It rose by more than {100 * RISE:.0f} % in {len(rises)} of {len(losses) - 1} epochs "
        f"({named}); optimizer.lr is {lr:g}.",
        "A schedule that lets it fall to nothing, so that the weights come to rest."
        if calm
        else "A third of it.",
        ("scheduler=cosine",) if calm else (third,),
        kind="problem",
    )


def collapse(f: Figures) -> str:
    """How far the last epoch fell below the best one; empty if it did not."""
    accuracy, losses = f.column("val/acc"), f.column("val/loss")
    guessing = log(len(f.classes))
    fell = max(accuracy) - accuracy[-1] > COLLAPSE
    if not fell and not losses[-1] > STUCK * guessing > SLOW * guessing > min(losses):
        return ""
    best = max(range(len(accuracy)), key=accuracy.__getitem__)
    return (
        f"Validation accuracy was {percent(accuracy[best])} in epoch {f.rows[best]['epoch']:.0f} "
        f"and {percent(accuracy[-1])} in the last, where the loss is {losses[-1]:.2f} (guessing: "
        f"{guessing:.2f})"
    )


def too_low(f: Figures) -> Finding | None:
    """The loss never left that of guessing, or it falls steadily and is far from done."""
    losses, rates, lr = f.column("train/loss"), f.column("lr"), f.settings.lr
    guessing = log(len(f.classes))
    warming_up = rates[0] < 0.9 * max(rates)
    steps = -(-f.trained_on // f.settings.batch_size)
    falls = [1 - after / before for before, after in pairwise(losses)]
    if f.error or warming_up or steps < STEPS or any(fall < -0.02 for fall in falls):
        return None
    stuck = losses[-1] > STUCK * guessing
    slow = (
        losses[0] > SLOW * guessing
        and f.column("train/acc")[0] < 0.5
        and f.val.value < POOR
        and len(losses) >= EPOCHS
        and min(falls) > FALL
    )
    if not stuck and not slow:
        return None
    factor = 10 if stuck else 2
    return Finding(
        "The learning rate is too low" if stuck else "The learning rate may be too low",
        f"In the first {steps:,} steps the training loss was {losses[0]:.2f} on average, where "
        f"guessing gives {guessing:.2f}; it has fallen smoothly since, to {losses[-1]:.2f}, and "
        f"validation accuracy is {percent(f.val.value)}; optimizer.lr is {lr:g}.",
        f"{factor} times as much.",
        (f"optimizer.lr={lr * factor:.2g}",),
        kind="problem" if stuck else "hint",
        alone=stuck,
    )


def one_answer(f: Figures) -> Finding | None:
    """Nearly every image is taken for the same class; pairs and classes then mean nothing."""
    counts = f.matrix.sum(0)
    answer, share = int(counts.argmax()), counts.max().item() / f.val.total
    commonest = f.matrix.sum(1).max().item() / f.val.total
    if share <= ONE_CLASS or f.val.value > commonest + HARDLY * (1 - commonest):
        return None
    if (low := too_low(f)) and low.alone:
        return None
    told, lr = collapse(f), f.settings.lr
    every = "everything" if share == 1 else "almost everything"
    evidence = (
        f"{percent(share)} of the validation images are taken for {f.classes[answer]}, and "
        f"{percent(f.val.value)} are right."
    )
    return Finding(
        f"It answers {f.classes[answer]} for {every}: "
        + ("the learning rate is too high" if told else "it has hardly trained"),
        f"{evidence} {told}; optimizer.lr is {lr:g}." if told else evidence,
        "A third of it." if told else "More epochs.",
        (f"optimizer.lr={lr / 3:.2g}",) if told else (f"trainer.max_epochs={2 * len(f.rows)}",),
        kind="problem",
        alone=True,
    )
