"""The valid values of every key of ``conf/``."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lenet_pl.errors import shorten

# a description of the valid values, and the test for them
Rule = tuple[str, Callable[[Any], bool]]
LARGEST = 10**9


def number(
    low: float = -LARGEST, high: float = LARGEST, above: bool = False, below: bool = False
) -> Rule:
    """A number, but no bool, in a range without ``low`` if ``above`` and ``high`` if ``below``."""
    start, end = "above" if above else "from", "and below" if above else "to below"
    text = f"a number {start} {low:,} {end if below else 'up to' if above else 'to'} {high:,}"

    def valid(x: Any) -> bool:
        inside = type(x) in (int, float) and low <= x <= high
        return inside and not (above and x == low) and not (below and x == high)

    return text, valid


def integer(low: int, high: int = LARGEST) -> Rule:
    """An integer in a range that includes both ends."""
    return f"an integer from {low:,} to {high:,}", lambda x: type(x) is int and low <= x <= high


def one_of(*choices: Any) -> Rule:
    """One of the given values, of the same type."""
    names = [str(x).lower() if isinstance(x, bool) else str(x) for x in choices]
    text = f"one of {', '.join(names)}" if len(names) > 1 else names[0]
    return text, lambda x: any(x == y and type(x) is type(y) for y in choices)


def rising(low: float, high: float) -> Rule:
    """Two numbers in a range, the second not below the first."""
    valid = list_of(number(low, high), 2)[1]
    return (
        f"two numbers, rising, from {low:,} to {high:,}",
        lambda x: valid(x) and x[0] <= x[1],
    )


def list_of(rule: Rule, length: int | None = None) -> Rule:
    """A list whose items all satisfy a rule."""
    text, valid = rule
    return (
        f"a list{f' of {length}' if length else ''}, each item {text}",
        lambda x: isinstance(x, list) and len(x) == (length or len(x)) and all(map(valid, x)),
    )


def either(*rules: Rule) -> Rule:
    """A value that satisfies one of several rules."""
    text = ", or ".join(text for text, _ in rules)
    return text, lambda x: any(valid(x) for _, valid in rules)


def optional(rule: Rule) -> Rule:
    """Null, or a value that satisfies a rule."""
    text, valid = rule
    return f"null or {text}", lambda x: x is None or valid(x)


def left_out(reason: str) -> Rule:
    """A key that a run sets itself, or that does not go with runs of whole epochs."""
    return f"left out: {reason}", lambda x: x is None


BOOL = one_of(True, False)
AUTO = one_of("auto", True, False)
TEXT: Rule = (
    "text, up to 255 characters between slashes",
    lambda x: isinstance(x, str) and max(map(len, x.split("/"))) < 256,
)
NODE: Rule = ("a mapping", lambda x: isinstance(x, dict))
POSITIVE = number(0, above=True)
NOT_NEGATIVE = number(0)
BELOW_1 = number(0, 1, below=True)
FRACTION = number(0, 1, above=True)
COUNT = integer(1)
SEED = integer(0, 2**32 - 1)
PART = either(COUNT, FRACTION)  # of the batches; 1 is one of them, 1.0 all
CLASSES = integer(2, 10**5)
WHOLE_EPOCHS = left_out("runs consist of whole epochs; set trainer.max_epochs")
STEP: dict[str, Rule] = {"lr": POSITIVE, "weight_decay": NOT_NEGATIVE}
MONITOR: dict[str, Rule] = {"monitor": TEXT, "mode": one_of("min", "max")}
CLASSIFIER: dict[str, Rule] = {
    "net": NODE,
    "loss": NODE,
    "optimizer": NODE,
    "scheduler": optional(NODE),
    "decay_biases": BOOL,
    "seed": SEED,
}

# by the name of the class or function in _target_, since a key is a constructor argument; those of
# classes that are not listed, such as your own, are free
RULES: dict[str, dict[str, Rule]] = {
    "config": {  # keys without a group
        "seed": SEED,
        "ckpt_path": optional(TEXT),
        "repeat": optional(TEXT),
        "test": BOOL,
        "run_dir": TEXT,
        "label": optional(TEXT),
        "hparams": (
            "a mapping to text, numbers, true or false",
            lambda x: (
                isinstance(x, dict) and all(isinstance(y, str | int | float) for y in x.values())
            ),
        ),
    },
    "DigitsDataModule": {
        "source": NODE,
        "root": optional(TEXT),
        "batch_size": COUNT,
        "eval_batch_size": COUNT,
        "val_size": either(COUNT, number(0, 1, above=True, below=True)),
        "split": optional(("three numbers above 0, as in [7,2,1]", list_of(POSITIVE, 3)[1])),
        "split_seed": SEED,
        "fraction": FRACTION,
        "normalise": one_of("standardise", "scale", "none"),
        "clean": BOOL,
        "suspect_folds": either(one_of(0), integer(2, 20)),
        "augment": NODE,
        "augment_until": number(0, 1),
        "seed": SEED,
        "on_error": one_of("skip", "stop"),
    },
    "Folder": {"invert": AUTO, "centre": AUTO},
    "Affine": {
        "degrees": number(0, 180),
        "translate": number(0, 1),
        "scale": number(0, 0.9),
        "shear": number(0, 80),
    },
    "Elastic": {"alpha": number(0, 1000), "sigma": number(0.1, 100)},
    "Erasing": {
        "probability": number(0, 1),
        "area": rising(0.001, 1),
        "aspect": rising(0.01, 100),
    },
    "Noise": {"std": number(0, 1)},
    "LeNet": {"num_classes": CLASSES},
    "MLP": {"hidden": list_of(integer(1, 10**6)), "dropout": BELOW_1, "num_classes": CLASSES},
    "LSTM": {
        "hidden_size": integer(1, 10**5),
        "num_layers": integer(1, 100),
        "bidirectional": BOOL,
        "dropout": BELOW_1,
        "num_classes": CLASSES,
    },
    "Pretrained": {
        "name": TEXT,
        "weights": optional(TEXT),
        "image_size": optional(integer(1, 4096)),
        "freeze": BOOL,
        "num_classes": CLASSES,
    },
    "CrossEntropyLoss": {"label_smoothing": BELOW_1},
    "SGD": STEP | {"momentum": BELOW_1, "nesterov": BOOL},
    "Adam": STEP | {"betas": list_of(BELOW_1, 2)},
    "AdamW": STEP | {"betas": list_of(BELOW_1, 2)},
    "Muon": STEP | {"momentum": BELOW_1, "iterations": integer(1, 100)},
    "cosine": {"warmup": BELOW_1, "final": BELOW_1},
    "one_cycle": {"warmup": BELOW_1, "div_factor": number(1), "final_div_factor": number(1)},
    "plateau": MONITOR | {"factor": BELOW_1, "patience": integer(0)},
    "Classifier": CLASSIFIER,
    "FastClassifier": CLASSIFIER | {"steps_per_execution": COUNT},
    "BestAndLastCheckpoint": MONITOR | {"dirpath": TEXT, "weights": TEXT},
    "EarlyStopping": MONITOR | {"patience": COUNT},
    "WeightAverage": {"decay": optional(BELOW_1), "start": BELOW_1},
    "Unfreeze": {"unfreeze_epoch": integer(2), "lr_factor": POSITIVE},
    "TensorBoardLogger": {
        "save_dir": TEXT,
        "name": optional(TEXT),
        "version": optional(either(TEXT, integer(0))),
        "sub_dir": optional(TEXT),
        "default_hp_metric": BOOL,
    },
    "Trainer": {
        "accelerator": TEXT,
        "devices": either(one_of("auto", -1), integer(1, 1024), list_of(integer(0, 1023))),
        "num_nodes": integer(1, 10**4),
        # the strategies that start their processes before training, which keep the result
        "strategy": either(
            one_of("auto", "ddp", "ddp_find_unused_parameters_true", "single_device"), NODE
        ),
        "precision": one_of("32-true", "bf16-mixed", "16-mixed", "64-true", "bf16-true", "16-true"),
        "max_epochs": COUNT,
        "gradient_clip_val": optional(POSITIVE),
        "gradient_clip_algorithm": one_of("norm", "value"),
        "accumulate_grad_batches": COUNT,
        "overfit_batches": either(one_of(0, 0.0), PART),
        **dict.fromkeys(
            ("limit_train_batches", "limit_val_batches", "limit_test_batches"), optional(PART)
        ),
        "profiler": optional(either(one_of("simple", "advanced", "pytorch"), NODE)),
        "detect_anomaly": BOOL,
        "fast_dev_run": either(BOOL, COUNT),
        "deterministic": optional(either(BOOL, one_of("warn"))),
        "default_root_dir": TEXT,
        "plugins": optional(list_of(NODE)),
        "use_distributed_sampler": one_of(False),
        "num_sanity_val_steps": integer(-1),
        "enable_progress_bar": BOOL,
        "enable_model_summary": BOOL,
        "val_check_interval": FRACTION,
        "min_epochs": optional(integer(0)),
        "sync_batchnorm": BOOL,
        "inference_mode": BOOL,
        "log_every_n_steps": COUNT,
        "check_val_every_n_epoch": one_of(1),
        "max_steps": WHOLE_EPOCHS,
        "max_time": WHOLE_EPOCHS,
        "callbacks": left_out("set callbacks"),
        "logger": left_out("set logger; logger=none turns it off"),
        "enable_checkpointing": left_out("callbacks=none saves no checkpoints"),
        "barebones": left_out("callbacks=none logger=none leave out what takes time"),
    },
}
INSTANTIATE: dict[str, Rule] = {  # keys of Hydra's, in any mapping
    "_target_": TEXT,
    "_partial_": BOOL,
    "_recursive_": BOOL,
    "_convert_": one_of("none", "partial", "object", "all"),
}


def with_rules(
    values: Mapping[str, Any], path: str = "", own: Mapping[str, Rule] = RULES["config"]
) -> Iterator[tuple[str, Any, Rule | None]]:
    """Yield each key, its value and its rule; None for a mapping without, and for free keys.

    Args:
        values: of a node of the configuration.
        path: its key.
        own: the rules of its keys.
    """
    for name, value in values.items():
        key = f"{path}.{name}" if path else str(name)
        yield key, value, INSTANTIATE.get(name) or own.get(name)
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, dict):
                library, _, target = str(node.get("_target_", "")).partition(".")
                known = library in ("lenet_pl", "torch", "pytorch_lightning")
                rules = RULES.get(target.rpartition(".")[2], {}) if known else {}
                yield from with_rules(node, key, rules)


def show(value: Any) -> str:
    """A value as it is written in YAML, shortened."""
    names = {None: "null", True: "true", False: "false"}
    return names[value] if value is None or isinstance(value, bool) else shorten(str(value))
