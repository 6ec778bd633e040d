"""Rules for values: those of every key of ``conf/``, and schemas of files."""

import re
from collections.abc import Callable, Iterator, Mapping
from math import nextafter
from sys import float_info
from typing import Any

from lenet_pl.errors import shorten

# a description of the valid values, and the test for them
Rule = tuple[str, Callable[[Any], bool]]
# a rule, [schema of each item] or {key: schema}; "key?" may be missing or null, "*" is every key
Schema = Any
LARGEST = 10**9
ABOVE_0 = float_info.min  # a smaller number is 0 to a program that flushes subnormal numbers
LAST_BELOW_1 = nextafter(1, 0)


def show(value: Any) -> str:
    """A value as it is written in YAML, shortened."""
    names = {None: "null", True: "true", False: "false"}
    return names[value] if value is None or isinstance(value, bool) else shorten(str(value))


def gain(metric: str, value: float) -> float:
    """The value of a monitored metric, negated if less is better."""
    return -value if MONITORED.get(metric) == "min" else value


def number(low: float, high: float = LARGEST, text: str = "") -> Rule:
    """A number, not a bool, in a closed range; ``text`` describes an open one."""
    text = f"a number {text or f'from {low:,} to {high:,}'}"
    return text, lambda x: type(x) in (int, float) and low <= x <= high


def integer(low: int, high: int = LARGEST) -> Rule:
    """An integer, not a bool, in a closed range."""
    return f"an integer from {low:,} to {high:,}", lambda x: type(x) is int and low <= x <= high


def one_of(*choices: Any) -> Rule:
    """One of the given values, of the same type."""
    text = ", ".join(map(show, choices))
    text = f"one of {text}" if len(choices) > 1 else text
    return text, lambda x: any(x == y and type(x) is type(y) for y in choices)


def list_of(rule: Rule, length: int | None = None) -> Rule:
    """A list whose items all satisfy a rule."""
    text = f"a list{f' of {length}' if length else ''}, each item {rule[0]}"
    return (
        text,
        lambda x: isinstance(x, list) and len(x) == (length or len(x)) and all(map(rule[1], x)),
    )


def rising(low: float, high: float) -> Rule:
    """Two numbers in a range, the second not below the first."""
    text, valid = f"from {low:,} to {high:,}", list_of(number(low, high), 2)[1]
    return f"two numbers in ascending order, {text}", lambda x: valid(x) and x[0] <= x[1]


def either(*rules: Rule) -> Rule:
    """A value that satisfies one of several rules."""
    text = ", or ".join(text for text, _ in rules)
    return text, lambda x: any(valid(x) for _, valid in rules)


def optional(rule: Rule) -> Rule:
    """Null, or a value that satisfies a rule."""
    return f"null or {rule[0]}", lambda x: x is None or rule[1](x)


def left_out(reason: str) -> Rule:
    """A key that a run sets itself, or that is incompatible with runs of whole epochs."""
    return f"left out: {reason}", lambda x: x is None


BOOL = one_of(True, False)
AUTO = one_of("auto", True, False)
STRING: Rule = ("text", lambda x: isinstance(x, str))
TENSOR: Rule = ("a tensor", lambda x: hasattr(x, "isfinite"))
MAPPING: Rule = ("a mapping", lambda x: isinstance(x, dict))
NODE: Rule = ("a mapping", lambda x: isinstance(x, dict) and all(isinstance(y, str) for y in x))
LIST: Rule = ("a list", lambda x: isinstance(x, list))
TEXT: Rule = (
    "text, up to 255 characters between slashes",
    lambda x: isinstance(x, str) and max(map(len, x.split("/"))) < 256,
)
NAME: Rule = (  # also a folder's, beside the files of a run
    "text: up to 120 bytes of letters, digits, spaces and . , + - _, unlike a file of a run",
    lambda x: (
        isinstance(x, str)
        and len(x.encode()) <= 120
        and bool(re.fullmatch(r"[^\W_]([\w.,+\- ]*\w)?", x))
        and not re.search(r"^(checkpoints|report|export)$|\.[a-z]+$", x)
    ),
)
HPARAMS: Rule = (
    "a mapping to text, numbers, true or false",
    lambda x: isinstance(x, dict) and all(isinstance(y, str | int | float) for y in x.values()),
)
FINITE: Rule = ("a finite number", number(-1e300, 1e300)[1])
POSITIVE = number(ABOVE_0, text=f"above 0 and up to {LARGEST:,}")
NOT_NEGATIVE = number(0)
FROM_1 = number(1)
UP_TO_1 = number(0, 1)
BELOW_1 = number(0, LAST_BELOW_1, "in the range [0, 1)")
FRACTION = number(ABOVE_0, 1, "above 0 and up to 1")
NATURAL = integer(0)
COUNT = integer(1)
SEED = integer(0, 2**32 - 1)
PART = either(COUNT, FRACTION)  # of the batches; 1 is one of them, 1.0 all
VERSION = optional(either(TEXT, NATURAL))
WHOLE_EPOCHS = left_out("runs consist of whole epochs")
NO_UPLOAD = left_out("checkpoints stay in the run folder")
# validation metrics that epochs, runs and learning rates may be selected by; the better direction
MONITORED = {"val/acc": "max", "val/loss": "min", "val/balanced_acc": "max"}
METRIC: Rule = (f"a validation metric, {' or '.join(MONITORED)}", lambda x: x in [*MONITORED])

# fmt: off
SIDE = optional(integer(1, 10**4))
SHAPE = {"num_classes": optional(integer(2, 10**5)), "channels": SIDE, "size": SIDE}
STEP = {"lr": POSITIVE, "weight_decay": NOT_NEGATIVE}
MONITOR = {"monitor": METRIC, "mode": one_of("min", "max")}
CLASSIFIER = {
    "net": NODE, "loss": NODE, "optimizer": NODE, "scheduler": optional(NODE),
    "decay_biases": BOOL, "seed": SEED,
}

# by the class or function in _target_, since a key is one of its arguments; those of classes that
# are not listed, such as your own, are not checked
RULES: dict[str, dict[str, Rule]] = {
    "config": {  # keys without a group
        "seed": SEED, "test": BOOL, "run_dir": TEXT, "name": optional(NAME), "hparams": HPARAMS,
        "ckpt_path": optional(TEXT), "repeat": optional(TEXT), "pause_after": optional(COUNT),
    },
    "DigitsDataModule": {
        "source": NODE, "root": optional(TEXT), "on_error": one_of("skip", "stop"),
        "batch_size": COUNT, "eval_batch_size": COUNT,
        "val_size": either(COUNT, number(ABOVE_0, LAST_BELOW_1, "above 0 and below 1")),
        "split": optional(("three numbers above 0, as in [7,2,1]", list_of(POSITIVE, 3)[1])),
        "seed": SEED, "split_seed": SEED, "fraction": FRACTION,
        "normalise": one_of("standardise", "scale", "none"),
        "clean": BOOL, "suspect_folds": either(one_of(0), integer(2, 20)),
        "augment": NODE, "augment_until": UP_TO_1,
    },
    "Folder": {
        "size": integer(8, 1024), "channels": one_of(1, 3), "invert": AUTO, "centre": AUTO,
    },
    "Affine": {
        "degrees": number(0, 180), "translate": UP_TO_1, "scale": number(0, 0.9),
        "shear": number(0, 80),
    },
    "Elastic": {"alpha": number(0, 1000), "sigma": number(0.1, 100)},
    "Erasing": {"probability": UP_TO_1, "area": rising(0.001, 1), "aspect": rising(0.01, 100)},
    "Flip": {"probability": UP_TO_1},
    "Noise": {"std": UP_TO_1},
    "LeNet": SHAPE,
    "MLP": SHAPE | {"hidden": list_of(integer(1, 10**6)), "dropout": BELOW_1},
    "LSTM": SHAPE | {
        "hidden_size": integer(1, 10**5), "num_layers": integer(1, 100), "bidirectional": BOOL,
        "dropout": BELOW_1,
    },
    "Pretrained": {
        "num_classes": SHAPE["num_classes"], "image_size": optional(integer(1, 4096)),
        "name": TEXT, "weights": optional(TEXT), "freeze": BOOL,
    },
    "CrossEntropyLoss": {
        "label_smoothing": BELOW_1,
        "class_weights": optional(either(one_of("balanced"), list_of(POSITIVE))),
    },
    "SGD": STEP | {"momentum": BELOW_1, "nesterov": BOOL},
    "Adam": STEP | {"betas": list_of(BELOW_1, 2)},
    "AdamW": STEP | {"betas": list_of(BELOW_1, 2)},
    "Muon": STEP | {"momentum": BELOW_1, "iterations": integer(1, 100)},
    "cosine": {"warmup": BELOW_1, "final": BELOW_1},
    "one_cycle": {"warmup": BELOW_1, "div_factor": FROM_1, "final_div_factor": FROM_1},
    "plateau": MONITOR | {"factor": BELOW_1, "patience": NATURAL},
    "find_lr": {
        "min_lr": POSITIVE, "max_lr": POSITIVE, "num_training": integer(100, 10**5),
        "early_stop_threshold": FROM_1,
    },
    "Classifier": CLASSIFIER,
    "FastClassifier": CLASSIFIER | {"steps_per_execution": COUNT},
    "BestAndLastCheckpoint": MONITOR | {"dirpath": TEXT, "weights": TEXT},
    "EarlyStopping": MONITOR | {"patience": COUNT},
    "WeightAverage": {"decay": optional(BELOW_1), "start": BELOW_1},
    "Unfreeze": {"unfreeze_epoch": integer(2), "lr_factor": POSITIVE},
    "TensorBoardLogger": {
        "save_dir": TEXT, "name": optional(TEXT), "sub_dir": optional(TEXT), "version": VERSION,
        "default_hp_metric": BOOL,
    },
    "CSVLogger": {"save_dir": TEXT, "name": TEXT, "version": VERSION},
    "WandbLogger": {
        "save_dir": TEXT, "project": TEXT, "name": optional(TEXT), "id": optional(TEXT),
        "offline": BOOL, "log_model": NO_UPLOAD,
    },
    "MLFlowLogger": {
        "tracking_uri": TEXT, "experiment_name": TEXT, "run_name": optional(TEXT),
        "run_id": optional(TEXT), "log_model": NO_UPLOAD,
    },
    "Trainer": {
        "accelerator": TEXT, "default_root_dir": TEXT, "num_nodes": integer(1, 10**4),
        "devices": either(one_of("auto", -1), integer(1, 1024), list_of(integer(0, 1023))),
        # strategies that start their processes before training; others lose the result
        "strategy": either(
            one_of("auto", "ddp", "ddp_find_unused_parameters_true", "single_device"), NODE
        ),
        "precision": one_of("32-true", "bf16-mixed", "16-mixed", "64-true", "bf16-true", "16-true"),
        "max_epochs": COUNT, "min_epochs": optional(NATURAL), "accumulate_grad_batches": COUNT,
        "gradient_clip_val": optional(POSITIVE), "gradient_clip_algorithm": one_of("norm", "value"),
        "limit_train_batches": optional(PART), "limit_val_batches": optional(PART),
        "limit_test_batches": optional(PART), "overfit_batches": either(one_of(0, 0.0), PART),
        "num_sanity_val_steps": integer(-1), "log_every_n_steps": COUNT,
        "val_check_interval": FRACTION, "check_val_every_n_epoch": one_of(1),
        "fast_dev_run": either(BOOL, COUNT), "deterministic": optional(one_of(True, False, "warn")),
        "profiler": optional(either(one_of("simple", "advanced", "pytorch"), NODE)),
        "plugins": optional(list_of(NODE)), "use_distributed_sampler": one_of(False),
        "detect_anomaly": BOOL, "sync_batchnorm": BOOL, "inference_mode": BOOL,
        "enable_progress_bar": BOOL, "enable_model_summary": BOOL,
        "max_steps": WHOLE_EPOCHS, "max_time": WHOLE_EPOCHS,
        "callbacks": left_out("set callbacks"),
        "logger": left_out("set logger; logger=none turns it off"),
        "enable_checkpointing": left_out("callbacks=none saves no checkpoints"),
        "barebones": left_out("set callbacks=none logger=none for a similar effect"),
    },
}
# fmt: on
ANYWHERE: dict[str, Rule] = {  # keys in any mapping
    "monitor": optional(METRIC),
    "_target_": TEXT,
    "_partial_": BOOL,
    "_recursive_": BOOL,
    "_convert_": one_of("none", "partial", "object", "all"),
}


Checks = Iterator[tuple[str, Any, Rule | None]]  # key, value, rule; None where all are valid


def with_rules(
    values: Mapping[str, Any], path: str = "", own: Mapping[str, Rule] = RULES["config"]
) -> Checks:
    """Yield each value in a node with its rule; ``own`` has the rules of the node's own keys."""
    for name, value in values.items():
        key = f"{path}.{name}" if path else str(name)
        yield key, value, own.get(name) or ANYWHERE.get(name)
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, dict):
                library, _, target = str(node.get("_target_", "")).partition(".")
                known = library in ("lenet_pl", "torch", "pytorch_lightning")
                rules = RULES.get(target.rpartition(".")[2], {}) if known else {}
                yield from with_rules(node, key, rules)


def with_schema(value: Any, schema: Schema, key: str = "content") -> Checks:
    """Yield each value in the content of a file with its rule; containers come first."""
    if isinstance(schema, tuple):
        yield key, value, schema
    elif isinstance(schema, list):
        yield key, value, LIST
        for number, item in enumerate(value):
            yield from with_schema(item, schema[0], f"{key}[{number}]")
    else:
        yield key, value, NODE
        prefix = "" if key == "content" else f"{key}."
        for name, part in schema.items():
            own = name.removesuffix("?")
            for item in value if name == "*" else [own]:
                if own == name or value.get(own) is not None:
                    yield from with_schema(value.get(item), part, f"{prefix}{item}")


def invalid(checks: Checks) -> str | None:
    """Describe the first value that is invalid; None if all are valid."""
    for key, value, rule in checks:
        if rule and not rule[1](value):
            return f"{key}={show(value)}: must be {rule[0]}"
    return None
