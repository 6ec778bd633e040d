"""Training loops as one would write them by hand, to compare this project with."""

import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from lenet_pl.data.datamodule import DigitsDataModule
from lenet_pl.data.split import stratified_split
from lenet_pl.models.lenet import LeNet

Epoch = Callable[[], Iterator[tuple[Tensor, Tensor]]]  # float images [B, 1, 28, 28], labels [B]


def seconds_of_epoch(batches: Epoch, device: torch.device) -> float:
    """Train LeNet for one epoch with plain SGD and return the seconds it took."""
    net = LeNet()
    net.conv3 = nn.Conv2d(16, 120, kernel_size=5)  # not the project's faster matrix product
    net.to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9)
    started = time.perf_counter()
    for images, labels in batches():
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def in_memory(data: DigitsDataModule, device: torch.device) -> Epoch:
    """Shuffled batches cut from the training images as one tensor on the device."""
    train = data.splits["train"]
    images, labels = train.images.to(device), train.labels.to(device)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for index in torch.randperm(len(labels), device=device).split(data.batch_size):
            yield (images[index].float() / 255 - data.mean) / data.std, labels[index]

    return batches


def dataloader(cfg: DictConfig, data: DigitsDataModule, device: torch.device) -> Epoch:
    """Batches of a DataLoader over torchvision's MNIST with ``ToTensor``, one image at a time."""
    mnist = MNIST(cfg.data.root, transform=ToTensor())
    train, _ = stratified_split(mnist.targets, [cfg.data.val_size], cfg.data.split_seed)
    loader = DataLoader(Subset(mnist, train.tolist()), data.batch_size, shuffle=True)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in loader:
            yield images.to(device), labels.to(device)

    return batches
