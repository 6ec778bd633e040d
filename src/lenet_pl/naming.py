"""Names of runs: the values that differ between them, as in ``lr 0.01, batch_size 64``."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

from lenet_pl.records import override_key

# overrides that do not affect training: a preset, the name, the final test, and what resuming a
# run adds
NOT_PARAMETERS = {"sweep", "name", "resume", "ckpt_path", "repeat", "pause_after", "test"}


def parameter_overrides(overrides: Iterable[str]) -> list[str]:
    """The overrides of a run that determine what is trained."""
    return [item for item in overrides if override_key(item) not in NOT_PARAMETERS]


def override_values(overrides: Iterable[str]) -> dict[str, str]:
    """The values of overrides by key, with any quotes."""
    return {override_key(item): item.partition("=")[2] for item in overrides}


def typed(text: str | None) -> Any:
    """The text as a number if it is one that is safe to calculate with, otherwise as it is."""
    for kind in (int, float):
        with suppress(ValueError):
            if abs(number := kind(text or "")) < 1e100:
                return number
    return text


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """A name for each key: its last part where that is unique, otherwise the whole key."""
    last = {key: key.rpartition(".")[2] for key in keys}
    counts = Counter(last.values())
    return {key: name if counts[name] == 1 else key for key, name in last.items()}


def readable(value: str) -> str:
    """A value as typed; a long number, such as a sampled one, with three significant digits."""
    number = typed(value)
    return value if len(value) <= 7 or isinstance(number, str) else f"{number:.3g}"


def varied_values(values: Mapping[str, str], varied: Iterable[str]) -> dict[str, str]:
    """The values of the varied keys by short name, without quotes."""
    names = short_names(varied).items()
    return {name: values[key].strip("'\"") for key, name in names if key in values}


def describe(values: Mapping[str, str], varied: Iterable[str]) -> str:
    """``lr 0.01, batch_size 64``: the values of the varied keys."""
    named = varied_values(values, varied).items()
    return ", ".join(f"{name} {readable(value)}" for name, value in named)


def differences(runs: Sequence[Mapping[str, str]]) -> list[str]:
    """Describe each run by those of its values by key that are not common to all runs."""
    keys = dict.fromkeys(chain.from_iterable(runs))
    varied = [key for key in keys if len({values.get(key) for values in runs}) > 1]
    return [describe(values, varied) for values in runs]
