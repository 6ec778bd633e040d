"""Findings on how a network learnt: from the curves, and from training beside validation."""

from lenet_pl.console import percent
from lenet_pl.report.figures import Figures, Finding, Z, beyond_chance
from lenet_pl.report.rates import too_high, too_low

DROP = 0.03  # of the validation loss over the last quarter of the epochs: worth going on for
ANNEALED = 0.1  # of the largest learning rate: a schedule that has come to its end
GAP = 0.005  # half a point; a smaller gap is not worth a change
GAP_SHARE = 0.5  # of the validation error: what an ideal fit to training images would leave
ERROR = 0.01  # of the training images; these networks can learn far more of them by heart
UNAWARE = ("MLP", "LSTM")  # networks that do not know that an image has two dimensions
CLIMB = 1.2  # times the lowest validation loss


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
    s, behind = f.settings, round(100 * gap, 2)
    place = (
        "level"
        if behind == 0
        else f"{abs(behind):.2f} points {'behind' if behind > 0 else 'ahead'}"
    )
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
        f"{percent(error)} of them are still wrong, and validation is "
        f"{'only ' * (behind > 0)}{place}: more room to learn, not more restraint.",
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
