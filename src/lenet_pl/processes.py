"""The process of a run: its rank, device and memory, and the sweep or Slurm job it belongs to."""

import ctypes
import os
import shutil
import subprocess
from typing import Any, cast

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_only

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h


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


def keep_freed_memory() -> None:
    """Let glibc reuse the memory of freed tensors instead of returning it to the system.

    Doing so in every step takes a quarter of the CPU time of an epoch with batches of 128 or more.
    """
    if mallopt := os.name == "posix" and getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_TRIM_THRESHOLD, 2**29)
        mallopt(M_MMAP_THRESHOLD, 2**25)  # the largest value it accepts


def requeue() -> None:
    """Requeue the Slurm job, which then resumes the run; do nothing outside Slurm."""
    job, scontrol = os.environ.get("SLURM_JOB_ID"), shutil.which("scontrol")
    if job and scontrol:
        subprocess.run([scontrol, "requeue", job], check=False)
