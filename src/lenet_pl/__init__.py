"""LeNet on MNIST with PyTorch Lightning and Hydra."""

__version__ = "0.2.0"
