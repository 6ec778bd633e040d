"""A multilayer perceptron, which does not know that pixels have neighbours."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with ReLU and dropout between them: 535,818 parameters as configured.

    Args:
        hidden: units of each hidden layer; none makes it a softmax regression.
        dropout: share of the units of a hidden layer that is left out of a training step.
        num_classes: how many logits come out.
    """

    def __init__(self, hidden: Sequence[int], dropout: float, num_classes: int = 10) -> None:
        super().__init__()
        sizes = [28 * 28, *hidden]
        self.flatten = nn.Flatten()
        self.hidden = nn.Sequential()
        for inputs, outputs in pairwise(sizes):
            self.hidden.extend([nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(dropout)])
        self.output = nn.Linear(sizes[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, num_classes]`` of images ``[N, 1, 28, 28]``."""
        x = self.flatten(x)  # [N, 784]
        x = self.hidden(x)  # [N, hidden[-1]]
        return self.output(x)  # [N, num_classes]
