"""A recurrent network, which reads an image row by row.

The cell: S. Hochreiter, J. Schmidhuber, "Long short-term memory", Neural Computation 9 (1997),
p. 1735, with the forget gate of F. A. Gers et al., Neural Computation 12 (2000), p. 2451.
"""

import torch
from torch import Tensor, nn


class LSTM(nn.Module):
    """28 rows of 28 pixels as a sequence; the last state decides.

    Args:
        hidden_size: units of the state.
        num_layers: recurrent layers, one on top of the other.
        bidirectional: read from below as well.
        dropout: share of the units left out of a training step, between layers and at the end.
        num_classes: how many logits come out.
    """

    def __init__(
        self,
        hidden_size: int,
        num_layers: int,
        bidirectional: bool,
        dropout: float,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        self.lstm = nn.LSTM(
            input_size=28,
            hidden_size=hidden_size,
            num_layers=num_layers,
            batch_first=True,
            dropout=dropout if num_layers > 1 else 0.0,  # torch's is between layers
            bidirectional=bidirectional,
        )
        self.directions = 2 if bidirectional else 1
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.directions * hidden_size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, num_classes]`` of images ``[N, 1, 28, 28]``."""
        x = x.squeeze(1)  # [N, 28, 28]: rows in order of time
        _, (states, _) = self.lstm(x)  # [layers × directions, N, hidden_size]
        x = torch.cat([*states[-self.directions :]], dim=1)  # [N, directions × hidden_size]
        return self.fc(self.dropout(x))  # [N, num_classes]
