"""Any classifier of torchvision, from scratch or with weights learnt on ImageNet."""

from difflib import get_close_matches

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision import models

AUXILIARY = ("aux1", "aux2", "AuxLogits")  # further outputs that Inception trains with


class Pretrained(nn.Module):
    """A classifier of torchvision whose last layer has been replaced.

    Args:
        name: as ``torchvision.models`` spells it, such as ``resnet18`` or ``vit_b_16``.
        weights: ``DEFAULT`` are torchvision's best, looked for among the files that torch has
            downloaded before and then fetched; or the path of a state dict, torchvision's or a
            ``best.pth`` of such a network; None starts from random ones.
        image_size: side in pixels that images are brought to; None leaves them as they are, or
            takes the smallest side that the architecture was made for. A vision transformer is
            built for this side, a multiple of its patches'; with ``DEFAULT`` it is 224.
        freeze: train the new last layer only; the network then stays in evaluation mode.
        num_classes: how many logits come out.

    Raises:
        ValueError: for a name that torchvision does not know, or weights of another network.
        OSError: if the weights are neither here nor to be had.
    """

    def __init__(
        self,
        name: str = "resnet18",
        weights: str | None = None,
        image_size: int | None = None,
        freeze: bool = False,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        known = models.list_models(module=models)
        if name not in known:
            near = get_close_matches(str(name), known, n=4, cutoff=0.4) or known
            raise ValueError(f"name={name}: no classifier of torchvision; nearest {_list(near)}")
        self.name = name
        smallest = models.get_model_weights(name).DEFAULT.meta["min_size"][0]
        self.image_size = image_size or (smallest if smallest > 28 else None)
        self.backbone = _build(name, weights, self.image_size)
        if freeze:
            self.backbone.requires_grad_(False)
        _replace_head(self.backbone, num_classes)
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, num_classes]`` of images ``[N, 1 or 3, H, W]``."""
        if self.image_size is not None and x.shape[-1] != self.image_size:
            size = (self.image_size, self.image_size)
            x = interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
        # torchvision's networks see colours. Three equal channels are right for weights learnt on
        # photographs, and the state dict stays torchvision's; a first layer with the kernels of
        # its channels added up would compute the same and be another network.
        return self.backbone(x.expand(-1, 3, -1, -1))

    def train(self, mode: bool = True) -> "Pretrained":
        """Training mode, unless something is frozen: then the network stays in evaluation mode.

        Its batch norms keep the statistics that their weights were learnt with.
        """
        frozen = not all(parameter.requires_grad for parameter in self.parameters())
        return super().train(mode and not frozen)


def _build(name: str, weights: str | None, image_size: int | None) -> nn.Module:
    """The network as torchvision builds it, less its auxiliary outputs."""
    options: dict = {}
    if name.startswith("vit_"):
        options["image_size"] = image_size
    if weights is None and name in ("googlenet", "inception_v3"):
        options["init_weights"] = True  # what leaving it out means too, with a warning
    if weights != "DEFAULT":
        net = _without_auxiliary(models.get_model(name, weights=None, **options))
        if weights is not None:
            _load(net, weights)
        return net
    url = models.get_model_weights(name).DEFAULT.url
    file, folder = url.rpartition("/")[2], f"{torch.hub.get_dir()}/checkpoints"
    try:
        return _without_auxiliary(models.get_model(name, weights="DEFAULT", **options))
    except ValueError as error:  # an image size that the weights were not learnt at
        raise ValueError(f"weights=DEFAULT: image_size={image_size}: {error}") from error
    except OSError as error:
        raise OSError(
            f"weights=DEFAULT: no network ({error}); put torchvision's file {file} into {folder}, "
            f"give model.weights=FILE, or model.weights=null to start from random ones"
        ) from error
    except Exception as error:  # of many kinds, depending on how a file is damaged
        raise ValueError(f"weights=DEFAULT: {folder}/{file} is damaged: {_line(error)}") from error


def _load(net: nn.Module, path: str) -> None:
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        state = {key.removeprefix("backbone."): value for key, value in state.items()}
        state = {key: value for key, value in state.items() if not key.startswith(AUXILIARY)}
        _replace_head(net, len(state[f"{_head(net)}.weight"]))  # of however many classes
        net.load_state_dict(state)
    except FileNotFoundError as error:
        raise OSError(f"weights={path}: there is no such file; or DEFAULT, or null") from error
    except Exception as error:
        raise ValueError(
            f"weights={path}: no state dict of this network: {_line(error)}"
        ) from error


def _without_auxiliary(net: nn.Module) -> nn.Module:
    for name in ("aux_logits", *AUXILIARY):
        if hasattr(net, name):
            setattr(net, name, None)
    return net


def _head(net: nn.Module) -> str:
    """The name of the last layer: the last one with weights, whatever the architecture calls it."""
    layers = [
        name for name, layer in net.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    return layers[-1]


def _replace_head(net: nn.Module, outputs: int) -> None:
    parent, _, name = _head(net).rpartition(".")
    old = net.get_submodule(_head(net))
    if isinstance(old, nn.Conv2d):  # SqueezeNet's
        new: nn.Module = nn.Conv2d(old.in_channels, outputs, kernel_size=1)
    else:
        assert isinstance(old, nn.Linear)
        new = nn.Linear(old.in_features, outputs)
    setattr(net.get_submodule(parent), name, new)


def _list(names: list[str]) -> str:
    return ", ".join(names)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()[:30])
