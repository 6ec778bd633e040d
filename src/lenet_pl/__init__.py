"""A PyTorch Lightning + Hydra training pipeline, shown on LeNet and MNIST."""
