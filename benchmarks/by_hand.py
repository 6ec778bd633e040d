"""Training loops as one writes them by hand, to hold this project's against."""

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

BatchSampler = Callable[[], Iterator[tuple[Tensor, Tensor]]]


def by_hand(device: torch.device) -> tuple[nn.Module, torch.optim.Optimizer]:
    net = LeNet()
    net.conv3 = nn.Conv2d(16, 120, kernel_size=5)  # ours trains as a matrix product
    net = net.to(device)
    return net, torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9)


def loop(batches: BatchSampler, device: torch.device) -> float:
    net, optimizer = by_hand(device)
    started = time.perf_counter()
    for images, labels in batches():
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def graph(batches: BatchSampler, size: int, device: torch.device) -> float:
    """The whole step as a CUDA graph; the last batch, if it is smaller, is left out."""
    net, optimizer = by_hand(device)
    images = torch.zeros(size, 1, 28, 28, device=device)
    labels = torch.zeros(size, dtype=torch.int64, device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    captured = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(captured):
        step()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for some, theirs in batches():
        if len(theirs) == size:
            images.copy_(some)
            labels.copy_(theirs)
            captured.replay()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def in_memory(data: DigitsDataModule, device: torch.device) -> BatchSampler:
    images, labels = (part.to(device) for part in vars(data.splits["train"]).values())

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for index in torch.randperm(len(labels), device=device).split(data.batch_size):
            yield (images[index].float() / 255 - data.mean) / data.std, labels[index]

    return batches


def dataloader(cfg: DictConfig, data: DigitsDataModule, device: torch.device) -> BatchSampler:
    official = MNIST(cfg.data.root, transform=ToTensor())
    train, _ = stratified_split(official.targets, [cfg.data.val_size], cfg.data.split_seed)
    subset = Subset(official, train.tolist())

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in DataLoader(subset, data.batch_size, shuffle=True):
            yield images.to(device), labels.to(device)

    return batches
