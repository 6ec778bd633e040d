"""A multilayer perceptron, which ignores the spatial arrangement of the pixels."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with ReLU and dropout between them: 535,818 parameters by default on MNIST.

    ``hidden`` has the units of each hidden layer; without any, this is softmax regression.
    """

    def __init__(
        self, hidden: Sequence[int], dropout: float, num_classes: int, channels: int, size: int
    ) -> None:
        super().__init__()
        sizes = [channels * size * size, *hidden]
        self.flatten = nn.Flatten()
        self.hidden = nn.Sequential()
        for inputs, outputs in pairwise(sizes):
            self.hidden.extend([nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(dropout)])
        self.output = nn.Linear(sizes[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[N, channels, size, size]`` to logits ``[N, num_classes]``."""
        x = self.flatten(x)  # [N, channels × size²]
        x = self.hidden(x)  # [N, hidden[-1]]
        x = self.output(x)  # [N, num_classes]
        return x
