"""What a network does to one image, layer by layer."""

from functools import partial

import torch
from torch import Tensor, nn

Layer = tuple[str, str, str, int]


def layers(net: nn.Module, image: Tensor) -> list[Layer]:
    """Name, type, output size and parameters of each layer, in the order of the forward pass.

    A layer that is passed twice stands there twice, its parameters at the first time.

    Args:
        net: a network.
        image: float ``[1, C, H, W]``.
    """
    rows: list[Layer] = []
    seen: set[str] = set()

    def note(name: str, module: nn.Module, args: tuple, output: Tensor) -> None:
        parameters = 0 if name in seen else sum(p.numel() for p in module.parameters())
        seen.add(name)
        size = " × ".join(str(side) for side in output.shape[1:])
        rows.append((name, type(module).__name__, size, parameters))

    hooks = [
        module.register_forward_hook(partial(note, name))
        for name, module in net.named_modules()
        if not list(module.children())
    ]
    training = net.training
    try:
        with torch.no_grad():
            net.eval()(image)
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
    return rows
