"""Findings on how a network learnt: from the curves, and from training beside validation."""

from itertools import pairwise
from math import log

from lenet_pl.analysis.figures import Figures, Finding, Z, beyond_chance
from lenet_pl.console import percent

GUESSING = 1.5  # times the accuracy of guessing: what has learnt anything gets beyond that
DEAD = 1.003  # times the loss of guessing; a network that has not begun is not above it
SLOW = 0.5  # of the loss of guessing: a first epoch that was mostly spent getting started
STUCK = 0.9  # of it: hardly a start, so the rate is off by more than a little
STEPS = 50  # in an epoch: after fewer, nothing has had time to fall
RISE = 0.2  # of the training loss from one epoch to the next; a mean over an epoch is steadier
RISES = 0.2  # of the epochs; a single jump happens to anyone
NEGLIGIBLE = 0.01  # nats: below, the loss is a few hard images, and jumps without harm
DROP = 0.03  # of the validation loss over the last quarter of the epochs: worth going on for
ANNEALED = 0.1  # of the largest learning rate: a schedule that has come to its end
GAP = 0.005  # half a point; a smaller gap is not worth a change
GAP_SHARE = 0.5  # of the validation error: what an ideal fit to training images would leave
ERROR = 0.01  # of the training images; these networks can learn far more of them by heart
UNAWARE = ("MLP", "LSTM")  # networks that do not know that an image has two dimensions
CLIMB = 1.2  # times the lowest validation loss


def too_high(f: Figures) -> Finding | None:
    """The loss left the numbers, the network came out dead, or the loss jumps about."""
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


def too_low(f: Figures) -> Finding | None:
    """The first epoch, at full rate, hardly moved the loss; it falls smoothly and goes on."""
    losses, rates, lr = f.column("train/loss"), f.column("lr"), f.settings.lr
    guessing = log(len(f.classes))
    warming_up = rates[0] < 0.9 * max(rates)
    shaken = any(after > 1.02 * before for before, after in pairwise(losses))
    steps = -(-f.trained_on // f.settings.batch_size)
    if f.error or warming_up or shaken or steps < STEPS or losses[0] < SLOW * guessing:
        return None
    stuck = losses[0] > STUCK * guessing
    if not stuck and not still_improving(f):
        return None
    factor = 10 if stuck else 3
    return Finding(
        "The learning rate is too low" if stuck else "The learning rate may be too low",
        f"After the first {steps:,} steps the training loss was {losses[0]:.2f} on average, where "
        f"guessing gives {guessing:.2f}, and it has fallen smoothly since, to {losses[-1]:.2f}; "
        f"optimizer.lr is {lr:g}.",
        f"{factor} times as much.",
        (f"optimizer.lr={lr * factor:.2g}",),
        kind="problem" if stuck else "hint",
        alone=f.val.value < 0.5,
    )


def overfitting(f: Figures) -> Finding | None:
    """Training images are known much better than validation images."""
    gap = f.train.value - f.val.value
    if beyond_chance(f.train, f.val) < Z or gap < max(GAP, GAP_SHARE * (1 - f.val.value)):
        return None
    losses = f.column("val/loss")
    lowest = losses.index(min(losses))
    climb = (
        f" Validation loss was lowest in epoch {f.rows[lowest]['epoch']:.0f} and is "
        f"{100 * (losses[-1] / losses[lowest] - 1):.0f} % higher in the last."
        if losses[-1] > CLIMB * losses[lowest]
        else ""
    )
    if not f.settings.augment:
        advice, override = "Images that are never twice the same.", "augment=affine"
    elif f.settings.weight_decay < 5e-4:
        advice, override = "Smaller weights.", "optimizer.weight_decay=0.0005"
    else:
        advice, override = "Labels that are less certain.", "loss.label_smoothing=0.1"
    return Finding(
        "It overfits: it knows the training images better than others",
        f"{percent(f.train.value)} of training images are right and {percent(f.val.value)} of "
        f"validation images: a gap of {100 * gap:.2f} points.{climb}",
        advice,
        (override,),
        kind="problem",
    )


def underfitting(f: Figures) -> Finding | None:
    """The training images themselves are not learnt, and it is not for want of time."""
    error, gap = 1 - f.train.value, f.train.value - f.val.value
    if error < ERROR or gap > 0.25 * error or still_improving(f) or too_low(f) or too_high(f):
        return None
    s = f.settings
    advice, override = "A learning rate that rises and falls.", "scheduler=onecycle"
    if s.label_smoothing:
        advice, override = "Hard labels again.", "loss.label_smoothing=0.0"
    elif s.weight_decay > 1e-3:
        advice, override = "Freer weights.", "optimizer.weight_decay=0.0001"
    elif s.model in UNAWARE:
        advice, override = "A network made for images.", "model=lenet"
    elif s.augment:
        advice, override = "Augmented images take longer to learn.", _longer(f)
    elif s.scheduler:
        advice, override = "Steps that are fitted to each weight.", "optimizer=adam"
    return Finding(
        "It underfits: the training images themselves are not learnt",
        f"{percent(error)} of them are still wrong, and validation is only "
        f"{100 * max(gap, 0):.2f} points behind: more room to learn, not more restraint.",
        advice,
        (override,),
        kind="problem",
    )


def still_improving(f: Figures) -> Finding | None:
    """The last epoch has the lowest validation loss, and by more than a trifle."""
    losses, rates = f.column("val/loss"), f.column("lr")
    annealed = rates[-1] < ANNEALED * max(rates)
    back = max(1, len(losses) // 4)
    if f.stopped_early or annealed or len(losses) < 2 or losses[-1] > min(losses):
        return None
    drop = 1 - losses[-1] / losses[-1 - back]
    if drop < DROP:
        return None
    over = "epoch" if back == 1 else f"{back} epochs"
    scheduled = len({round(rate, 9) for rate in rates}) > 1  # cut to this number of epochs
    goes_on = not scheduled and not f.settings.job
    if scheduled:
        advice = "Twice the epochs, with a schedule stretched to them."
    else:
        advice = "Go on with it, to twice the epochs." if goes_on else "Twice the epochs."
    return Finding(
        "It was still improving when it ended",
        f"Validation loss was lowest in the last epoch, {losses[-1]:.4f}, and fell by "
        f"{100 * drop:.0f} % over the last {over}.",
        advice,
        (_longer(f),),
        resume=goes_on,
    )


def stopped_too_early(f: Figures) -> Finding | None:
    """Early stopping watches the loss, while the accuracy was still going up."""
    patience, epochs = f.settings.patience, len(f.rows)
    if not f.stopped_early or patience is None or f.best_epoch < epochs - 1:
        return None
    accuracy = f.column("val/acc")
    return Finding(
        "It was stopped while accuracy still rose",
        f"Early stopping ended it after epoch {epochs} of {f.settings.max_epochs}, but the best "
        f"validation accuracy, {percent(max(accuracy))}, is that of epoch {f.best_epoch}.",
        f"Twice the patience, which was {patience}.",
        (f"callbacks.early_stopping.patience={2 * patience}",),
    )


def _longer(f: Figures) -> str:
    return f"trainer.max_epochs={2 * len(f.rows)}"
