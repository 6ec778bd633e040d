"""The steps of a program, run with NumPy on many images at once.

It reads what the page's script (``templates/network.js``) reads, and does what that does.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray
Step = dict[str, Any]


def run(steps: Sequence[Step], weights: Array, images: Array) -> Array:
    """Logits ``[N, classes]`` of standardised images ``float32 [N, C, H, W]``."""
    values = [images]
    for step in steps:
        taken = [values[number] for number in step["from"]]
        made = OPERATIONS[step["op"]](step, lambda place: _weight(weights, place), *taken)
        values.append(made.reshape(len(images), *step["shape"]).astype(np.float32, copy=False))
    return values[-1]


def softmax(logits: Array) -> Array:
    """Probabilities of logits ``[N, classes]``."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _weight(weights: Array, place: Sequence[int]) -> Array:
    offset, *shape = place
    return weights[offset : offset + int(np.prod(shape))].reshape(shape)


def _windows(x: Array, step: Step, kernel: Sequence[int], border: float) -> Array:
    """What a kernel sees at each place: ``[N, C, rows, columns, *kernel]``."""
    (top, left), (down, right) = step["pad"], step["stride"]
    rows, columns = step["shape"][1:]
    height = max(x.shape[2] + top, (rows - 1) * down + kernel[0])
    width = max(x.shape[3] + left, (columns - 1) * right + kernel[1])
    padded = np.full((*x.shape[:2], height, width), border, np.float32)
    padded[:, :, top : top + x.shape[2], left : left + x.shape[3]] = x
    seen = np.lib.stride_tricks.sliding_window_view(padded, tuple(kernel), axis=(2, 3))
    return seen[:, :, ::down, ::right][:, :, :rows, :columns]


def _conv2d(step: Step, weight: Any, x: Array) -> Array:
    kernels = weight(step["weight"])
    seen = _windows(x, step, kernels.shape[2:], 0.0)
    made = np.tensordot(seen, kernels, axes=((1, 4, 5), (1, 2, 3)))  # [N, rows, columns, out]
    return (made + weight(step["bias"])).transpose(0, 3, 1, 2)


def _scale(step: Step, weight: Any, x: Array) -> Array:
    factor, offset = (weight(step[name]) for name in ("weight", "bias"))
    others = (1,) * (x.ndim - 2)
    return x * factor.reshape(-1, *others) + offset.reshape(-1, *others)


def _part(step: Step, weight: Any, x: Array) -> Array:
    return x.take(range(step["first"], step["last"]), axis=step["axis"] + 1)


def _lstm(step: Step, weight: Any, x: Array) -> Array:
    """Gates in torch's order: input, forget, cell, output."""
    matrices = [weight(place) for place in step["weights"]]
    states = []
    for first in range(0, len(matrices), 4 * step["directions"]):
        sequences = []
        for direction in range(step["directions"]):
            w_in, w_state, b_in, b_state = matrices[first + 4 * direction :][:4]
            state = cell = np.zeros((len(x), w_state.shape[1]), np.float32)
            times = range(x.shape[1]) if direction == 0 else range(x.shape[1])[::-1]
            sequence = np.empty((*x.shape[:2], w_state.shape[1]), np.float32)
            for time in times:
                gates = x[:, time] @ w_in.T + b_in + state @ w_state.T + b_state
                take, keep, new, show = np.split(gates, 4, axis=1)
                cell = _sigmoid(keep) * cell + _sigmoid(take) * np.tanh(new)
                sequence[:, time] = state = _sigmoid(show) * np.tanh(cell)
            sequences.append(sequence)
            states.append(state)
        x = np.concatenate(sequences, axis=2)
    return x if step["output"] == "sequence" else np.stack(states, axis=1)


def _sigmoid(x: Array) -> Array:
    return (1 + np.tanh(x / 2)) / 2


OPERATIONS: dict[str, Any] = {
    "conv2d": _conv2d,
    "max_pool2d": lambda s, w, x: _windows(x, s, s["kernel"], -np.inf).max((-2, -1)),
    "avg_pool2d": lambda s, w, x: _windows(x, s, s["kernel"], 0.0).mean((-2, -1)),
    "linear": lambda s, w, x: x @ w(s["weight"]).T + w(s["bias"]),
    "scale": _scale,
    "lstm": _lstm,
    "part": _part,
    "cat": lambda s, w, *xs: np.concatenate(xs, axis=s["axis"] + 1),
    "add": lambda s, w, a, b: a + b,
    "reshape": lambda s, w, x: x,
    "relu": lambda s, w, x: np.maximum(x, 0),
    "leaky_relu": lambda s, w, x: np.where(x > 0, x, s["slope"] * x),
    "tanh": lambda s, w, x: np.tanh(x),
    "sigmoid": lambda s, w, x: _sigmoid(x),
    "silu": lambda s, w, x: x * _sigmoid(x),
}
