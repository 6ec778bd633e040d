"""Where the values of a parameter, which come as text, stand on an axis."""

from collections.abc import Iterable

import numpy as np


def numeric(values: Iterable[str]) -> bool:
    """Whether all are finite numbers."""
    try:
        return bool(np.isfinite([float(value) for value in values]).all())
    except ValueError:
        return False


def logarithmic(values: Iterable[str]) -> bool:
    """Whether the values are positive numbers that span a factor of ten or more."""
    values = list(values)
    numbers = [float(value) for value in values] if numeric(values) else [0.0]
    return min(numbers) > 0 and max(numbers) >= 10 * min(numbers)


def sort_key(value: str) -> tuple[bool, float, str]:
    return (False, float(value), "") if numeric([value]) else (True, 0.0, value)


def places_of(choices: list[str]) -> tuple[list[float], tuple[list[float], list[str]]]:
    """Where the choices stand on an axis, and its ticks."""
    if not numeric(choices):
        places = [float(i) for i in range(len(choices))]
        return places, (places, choices)
    places = [float(choice) for choice in choices]
    step = -(-len(places) // 8)
    return places, (places[::step], [f"{place:g}" for place in places[::step]])
