"""What a value of the configuration must be."""

from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import ListConfig

Rule = tuple[str, Callable[[Any], bool]]


def whole(low: int, high: float = float("inf")) -> Rule:
    """A whole number in a range that includes its ends."""
    to = f"from {low} to {high}" if high < float("inf") else f"from {low} on"
    return f"a whole number {to}", lambda x: type(x) is int and low <= x <= high


def positive() -> Rule:
    return "a number above 0", lambda x: type(x) in (int, float) and 0 < x < float("inf")


def share() -> Rule:
    return "a number from 0 to below 1", lambda x: type(x) in (int, float) and 0 <= x < 1


def not_negative() -> Rule:
    return "a number from 0 on", lambda x: type(x) in (int, float) and 0 <= x < float("inf")


def one_of(*choices: Any) -> Rule:
    """One of some values, of the same type too."""
    words = ", ".join(str(choice).lower() for choice in choices)
    return f"one of {words}", lambda x: any(x == y and type(x) is type(y) for y in choices)


def number_or_share() -> Rule:
    """A number of images, or a share of them."""
    _, is_number = positive()
    return (
        "a whole number from 1 on, or a share between 0 and 1",
        lambda x: is_number(x) and (type(x) is int or x < 1),
    )


def ratios() -> Rule:
    """Of train, validation and test."""
    _, is_positive = positive()
    return (
        "three numbers above 0, for train, validation and test, as in [7,2,1]",
        lambda x: isinstance(x, Sequence) and len(x) == 3 and all(map(is_positive, x)),
    )


def at_least_1() -> Rule:
    return "a number from 1 on", lambda x: type(x) in (int, float) and 1 <= x < float("inf")


def each(rule: Rule) -> Rule:
    meaning, holds = rule
    return f"a list, each {meaning}", lambda x: isinstance(x, ListConfig) and all(map(holds, x))


def unset_or(rule: Rule) -> Rule:
    meaning, holds = rule
    return f"null or {meaning}", lambda x: x is None or holds(x)


RULES: dict[str, Rule] = {
    "seed": whole(0, 2**32 - 1),
    "data.batch_size": whole(1),
    "data.eval_batch_size": whole(1),
    "data.val_size": number_or_share(),
    "data.split": unset_or(ratios()),
    "data.split_seed": whole(0),
    "data.fraction": (
        "a number above 0, up to 1",
        lambda x: type(x) in (int, float) and 0 < x <= 1,
    ),
    "data.augment_until": (
        "a number from 0 to 1",
        lambda x: type(x) in (int, float) and 0 <= x <= 1,
    ),
    "data.normalise": one_of("standardise", "scale", "none"),
    "data.clean": one_of(True, False),
    "data.suspect_folds": (
        "0, or a whole number from 2 to 20",
        lambda x: type(x) is int and x != 1 and 0 <= x <= 20,
    ),
    "data.on_error": one_of("skip", "stop"),
    "data.source.invert": one_of("auto", True, False),
    "data.source.centre": one_of("auto", True, False),
    "model.num_classes": whole(2),
    "model.hidden": each(whole(1)),
    "model.hidden_size": whole(1),
    "model.num_layers": whole(1),
    "model.dropout": share(),
    "model.image_size": unset_or(whole(1)),
    "loss.label_smoothing": share(),
    "optimizer.lr": positive(),
    "optimizer.momentum": share(),
    "optimizer.betas": each(share()),
    "optimizer.iterations": whole(1),
    "optimizer.weight_decay": not_negative(),
    "scheduler.warmup": share(),
    "scheduler.div_factor": at_least_1(),
    "scheduler.final_div_factor": at_least_1(),
    "scheduler.final": share(),
    "scheduler.factor": share(),
    "scheduler.patience": whole(0),
    "classifier.decay_biases": one_of(True, False),
    "classifier.steps_per_execution": whole(1),
    "classifier.cuda_graph": one_of(True, False),
    "trainer.max_epochs": whole(1),
    "trainer.accumulate_grad_batches": whole(1),
    "trainer.gradient_clip_val": unset_or(positive()),
    "trainer.limit_train_batches": unset_or(positive()),
    "trainer.limit_val_batches": unset_or(positive()),
    "trainer.limit_test_batches": unset_or(positive()),
    "callbacks.early_stopping.patience": whole(1),
    "callbacks.average.decay": unset_or(share()),
    "callbacks.average.start": share(),
    "callbacks.finetune.unfreeze_epoch": whole(2),
    "callbacks.finetune.lr_factor": positive(),
}
