"""The process of a run: its rank, device and memory, and the sweep or Slurm job it belongs to."""

import ctypes
import logging
import os
import shutil
import subprocess
import warnings
from typing import Any, cast

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_only

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
# loggers and warnings of Lightning, whose tips and messages do not concern a run here
LOGGERS = ["utilities.rank_zero", "accelerators.cuda", "tuner.lr_finder"]
LOGGERS += ["trainer.connectors.checkpoint_connector"]
WARNINGS = (
    ".*`dataloader_iter`.*",  # experimental in Lightning; the fast classifier depends on it
    ".*`training_step` returned `None`.*",  # the fast classifier runs its own steps
    ".*AccumulateGrad node's stream.*|.*Grad strides do not match.*",  # trainer=ddp on GPUs
    ".*does not have many workers.*",  # the data is in memory
    ".*smaller than the logging interval.*",  # metrics are logged per epoch
    ".*in eval mode at the start of training.*",  # frozen layers stay in evaluation mode
    ".*`srun` command is available.*",  # not every run on a machine with Slurm is a Slurm job
    ".*isinstance.treespec, LeafSpec.*",  # a torch deprecation that Lightning triggers
)


def is_main_process() -> bool:
    """Whether this is the only process of a run, or the first of several."""
    return int(cast(Any, rank_zero_only).rank) == 0


def in_sweep() -> bool:
    """Whether the run is a job of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def device_name(trainer: Trainer) -> str:
    """The name of a GPU, or ``cpu (2 threads)``."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    cpu = f"cpu ({threads} thread{'s' if threads > 1 else ''})"
    return cpu if device.type == "cpu" else str(device)


def configure_process() -> None:
    """Hide Lightning's tips, and choose settings of torch and glibc that make training faster."""
    for name in LOGGERS:
        logging.getLogger(f"pytorch_lightning.{name}").setLevel(logging.WARNING)
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message)
    # a dead unit's momentum decays to subnormal numbers, which make an epoch three times as long
    torch.set_flush_denormal(True)
    torch.backends.cuda.matmul.allow_tf32 = True  # as convolutions are computed by default
    # glibc reuses the memory of freed tensors; returning it to the system in every step takes a
    # quarter of the CPU time of an epoch with batches of 128 or more
    if mallopt := os.name == "posix" and getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_TRIM_THRESHOLD, 2**29)
        mallopt(M_MMAP_THRESHOLD, 2**25)  # the largest value it accepts


def requeue() -> None:
    """Requeue the Slurm job, which then resumes the run; do nothing outside Slurm."""
    job, scontrol = os.environ.get("SLURM_JOB_ID"), shutil.which("scontrol")
    if job and scontrol:
        subprocess.run([scontrol, "requeue", job], check=False)
