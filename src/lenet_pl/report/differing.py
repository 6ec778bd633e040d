"""The settings in which two runs differ."""

from typing import Any

from omegaconf import DictConfig, OmegaConf


def differences(first: DictConfig, second: DictConfig) -> list[tuple[str, str, str]]:
    """The keys of two configurations that have other values, with both values."""
    one, two = (_flat(config) for config in (first, second))
    _fold(one, two)
    _fold(two, one)
    missing = "not there"
    return [
        (key, str(one.get(key, missing)), str(two.get(key, missing)))
        for key in sorted(one.keys() | two.keys())
        if one.get(key, missing) != two.get(key, missing)
    ]


def _fold(config: dict[str, Any], other: dict[str, Any]) -> None:
    """Replace the keys of each part that the other has not by the name of its class."""
    for key in [key for key in config if key.endswith("._target_")]:
        part = key.removesuffix("_target_")
        if key in config and not any(k.startswith(part) for k in other):
            name = str(config[key]).rpartition(".")[2]
            for inner in [k for k in config if k.startswith(part)]:
                del config[inner]
            config[part[:-1]] = name
            if other.get(part[:-1]) in (None, {}):
                other[part[:-1]] = "none"


def _flat(config: DictConfig) -> dict[str, Any]:
    """Keys with dots to plain values; interpolations as written, folders left out."""
    found: dict[str, Any] = {}

    def walk(node: Any, prefix: str) -> None:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                walk(value, f"{prefix}.{key}" if prefix else str(key))
        else:
            found[prefix] = node

    container = OmegaConf.to_container(config, resolve=False)
    assert isinstance(container, dict)
    walk({k: v for k, v in container.items() if k not in ("hydra", "run_dir", "ckpt_path")}, "")
    return found
