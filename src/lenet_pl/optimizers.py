"""Optimizers that torch does not have for convolutions."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# of the odd polynomial that is iterated: steep at 0, near 1 from 0.7 on
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(Optimizer):
    """Momentum whose steps go as far in every direction of a matrix; vectors step as in SGD.

    A kernel ``[out, in, k, k]`` is taken as the matrix ``[out, in · k · k]`` that it is where
    images are unfolded; ``torch.optim.Muon`` takes matrices only. What has but one row or column
    is a vector. Source: K. Jordan et al.,
    "Muon: an optimizer for hidden layers in neural networks" (2024),
    https://kellerjordan.github.io/posts/muon, with Nesterov's momentum and the decoupled decay of
    J. Liu et al., "Muon is scalable for LLM training", arXiv:2502.16982, equation 3.

    Args:
        params: of the network, or groups of them.
        lr: of a matrix, how far a step goes in each direction, for a tall one times the square
            root of rows over columns; of a vector, as usual.
        momentum: the share of the running sum of gradients that is kept in a step.
        weight_decay: times lr, the share of all weights that is taken off in a step.
        iterations: of Newton and Schulz; each brings the singular values of a step nearer to 1.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float,
        weight_decay: float,
        iterations: int,
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, options | {"iterations": iterations})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        step = gradient.add(momentum, alpha=group["momentum"])
        if parameter.ndim > 1 and min(step.flatten(1).shape) > 1:
            matrix = orthogonalised(step.flatten(1), group["iterations"])
            rows, columns = matrix.shape
            step = matrix.mul_(max(1.0, rows / columns) ** 0.5).view(parameter.shape)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(step, alpha=-group["lr"])


def orthogonalised(matrix: Tensor, iterations: int) -> Tensor:
    """A matrix ``[m, n]`` with its singular vectors, and singular values of about 0.7 to 1.2."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T  # of the shorter side
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T.contiguous() if tall else x
