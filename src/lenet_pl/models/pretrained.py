"""Torchvision's image classifiers, from scratch or with pretrained weights."""

from difflib import get_close_matches
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision import models

AUXILIARY = ("aux1", "aux2", "AuxLogits")  # heads of GoogLeNet and Inception, for training only
# torchvision warns unless this default is given
OPTIONS = {name: {"init_weights": True} for name in ("googlenet", "inception_v3")}


class Pretrained(nn.Module):
    """A torchvision classifier with a new last layer, the only one that trains with ``freeze``.

    Args:
        name: as in ``torchvision.models``, for example ``resnet18`` or ``vit_b_16``.
        weights: ``DEFAULT`` for torchvision's best weights, cached or downloaded; the path of a
            state dict, from torchvision or a ``best.pth`` of this class; None for random weights.
        image_size: side in pixels to which images are resized, and for which vision transformers
            are built; None resizes only images that are too small for the architecture.

    Raises ValueError if the name is unknown or the weights do not fit; OSError if they cannot be
    found or downloaded.
    """

    def __init__(
        self, name: str, weights: str | None, image_size: int | None, freeze: bool, num_classes: int
    ) -> None:
        super().__init__()
        known = models.list_models(module=models)
        if name not in known:
            near = ", ".join(get_close_matches(str(name), known, n=4, cutoff=0.4) or known)
            raise ValueError(f"name={name}: not a torchvision classifier; choose from {near}")
        self.name, self.image_size = name, image_size
        self.smallest = models.get_model_weights(name).DEFAULT.meta["min_size"][0]
        options: dict[str, Any] = {}
        if name.startswith("vit_"):  # built for a single size
            self.image_size = options["image_size"] = image_size or self.smallest
        if weights == "DEFAULT":
            self.backbone = _download(name, options)
        else:
            self.backbone = models.get_model(name, **options, **OPTIONS.get(name, {}))
        for head in ("aux_logits", *AUXILIARY):
            if hasattr(self.backbone, head):
                setattr(self.backbone, head, None)
        if weights not in ("DEFAULT", None):
            _load(self.backbone, str(weights))
        if freeze:
            self.backbone.requires_grad_(False)
        _replace_head(self.backbone, num_classes)
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[N, 1 or 3, H, W]`` to logits ``[N, num_classes]``."""
        side = self.image_size or max(x.shape[-1], self.smallest)
        if x.shape[-1] != side:
            x = interpolate(x, (side, side), mode="bilinear", antialias=True)
        x = self.backbone(x.expand(-1, 3, -1, -1))  # grey images as three equal channels
        return x

    def train(self, mode: bool = True) -> Self:
        """Set the mode; with frozen layers, stay in evaluation mode to keep running statistics."""
        return super().train(mode and all(p.requires_grad for p in self.parameters()))


def _download(name: str, options: dict[str, Any]) -> nn.Module:
    file = models.get_model_weights(name).DEFAULT.url.rpartition("/")[2]
    folder = f"{torch.hub.get_dir()}/checkpoints"
    try:
        net: nn.Module = models.get_model(name, weights="DEFAULT", **options)
        return net
    except OSError as error:
        raise OSError(
            f"weights=DEFAULT: download failed ({error}); put torchvision's file {file} into "
            f"{folder}, or set model.weights=FILE, or model.weights=null for random weights"
        ) from error
    except Exception as error:  # damaged files raise errors of many types
        raise ValueError(f"weights=DEFAULT: cannot load {folder}/{file}: {error}") from error


def _load(net: nn.Module, path: str) -> None:
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        state = {key.removeprefix("backbone."): value for key, value in state.items()}
        state = {key: value for key, value in state.items() if not key.startswith(AUXILIARY)}
        _replace_head(net, len(state[f"{_head(net)[0]}.weight"]))  # trained on other classes
        net.load_state_dict(state)
    except FileNotFoundError as error:
        raise OSError(f"weights={path}: no such file; set a path, DEFAULT or null") from error
    except Exception as error:
        raise ValueError(f"weights={path}: do not fit this network: {error}") from error


def _head(net: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    return [(n, m) for n, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]


def _replace_head(net: nn.Module, outputs: int) -> None:
    name, old = _head(net)
    if isinstance(old, nn.Linear):
        net.set_submodule(name, nn.Linear(old.in_features, outputs))
    else:  # SqueezeNet
        net.set_submodule(name, nn.Conv2d(old.in_channels, outputs, kernel_size=1))
