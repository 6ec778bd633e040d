"""What the server of ``warm.py`` imports once."""

import gc
import logging

# as in a command, where Hydra sets up logging before Lightning looks for it
logging.getLogger().addHandler(logging.NullHandler())

import tensorboard.summary.writer  # noqa: E402, F401

import lenet_pl.training  # noqa: E402, F401

gc.freeze()  # what is imported is never collected
