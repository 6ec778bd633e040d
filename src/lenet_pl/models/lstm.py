"""A recurrent network that reads an image row by row.

The cell is that of S. Hochreiter, J. Schmidhuber, "Long short-term memory", Neural Computation 9
(1997), p. 1735, with the forget gate of F. A. Gers et al., Neural Computation 12 (2000), p. 2451.
"""

import torch
from torch import Tensor, nn


class LSTM(nn.Module):
    """An LSTM over the rows of an image, with a linear layer on its last hidden state."""

    def __init__(
        self,
        hidden_size: int,  # units of the hidden state
        num_layers: int,
        bidirectional: bool,  # whether to read the rows from bottom to top as well
        dropout: float,  # probability of dropping a unit, between layers and before the linear one
        num_classes: int,
        channels: int,
        size: int,  # width of the images in pixels
    ) -> None:
        super().__init__()
        between = dropout if num_layers > 1 else 0.0  # torch warns about it for a single layer
        options = {"dropout": between, "bidirectional": bidirectional}
        self.lstm = nn.LSTM(channels * size, hidden_size, num_layers, batch_first=True, **options)
        self.directions = 2 if bidirectional else 1
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.directions * hidden_size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[N, channels, H, size]`` to logits ``[N, num_classes]``."""
        x = x.transpose(1, 2).flatten(2)  # [N, H, channels × size]: one row per time step
        _, (states, _) = self.lstm(x)  # [num_layers × directions, N, hidden_size]
        x = torch.cat([*states[-self.directions :]], dim=1)  # [N, directions × hidden_size]
        x = self.fc(self.dropout(x))  # [N, num_classes]
        return x
