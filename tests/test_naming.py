"""Runs are named by the values that differ between them."""

from lenet_pl.naming import differences, override_values, parameter_overrides, short_names


def test_short_names_are_unique() -> None:
    assert short_names(["optimizer.lr", "seed"]) == {"optimizer.lr": "lr", "seed": "seed"}
    assert list(short_names(["a.size", "b.size"]).values()) == ["a.size", "b.size"]


def test_runs_differ_in_some_of_their_overrides() -> None:
    runs = [
        ["data=mini", "optimizer.lr=0.1", "seed=1", "name=first", "test=false"],
        ["data=mini", "optimizer.lr=0.123456789", "+seed=2", "augment='affine'"],
        ["data=mini"],
    ]
    values = [override_values(parameter_overrides(overrides)) for overrides in runs]
    assert differences(values) == ["lr 0.1, seed 1", "lr 0.123, seed 2, augment affine", ""]
    assert differences(values[:1]) == [""]
