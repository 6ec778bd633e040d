"""The Hydra callback of a sweep, and what stands around each of its jobs."""

import json
import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock, Timeout
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from lenet_pl.analysis.sweep import examine_winner, read_sweep
from lenet_pl.analysis.sweep_report import table, write
from lenet_pl.checks import MISTAKES, explain, give_up
from lenet_pl.console import ConsoleHandler, console
from lenet_pl.errors import ConfigError
from lenet_pl.record import shown
from lenet_pl.sweeping.plan import Plan, cpu_count, make_plan
from lenet_pl.sweeping.progress import Watch, begun, ended, label

log = logging.getLogger(__name__)

KEPT = {".hydra", "train.log"}  # of a job that begins anew


class Sweep(Callback):
    """Checks a sweep before its first job, tells how it goes, and sums it up.

    Travels to the processes of a parallel launcher, and stands around each job there.
    """

    plan: Plan
    current: ClassVar["Sweep | None"] = None  # around the job that runs in this process
    watch: ClassVar[Watch | None] = None
    lock: ClassVar[FileLock | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            self.plan = make_plan(config, GlobalHydra.instance().config_loader())
            for data in self.plan.data if not self.plan.parallel else ():
                instantiate(data.source)(data.root).prepare()
            self._open_folder(config)
        except MISTAKES as error:
            give_up(str(error))
        except (HydraException, OmegaConfBaseException) as error:
            give_up(explain(error))
        self._announce(config)
        if self.plan.parallel:
            Sweep.watch = Watch(self.plan)
            Sweep.watch.start()
        Sweep.current = self

    def _open_folder(self, config: DictConfig) -> None:
        """Take the folder for this process alone, and note what is going to happen in it."""
        folder = self.plan.folder
        folder.mkdir(parents=True, exist_ok=True)
        Sweep.lock = FileLock(folder / ".lock")
        try:
            Sweep.lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(
                f"hydra.sweep.dir={config.hydra.sweep.dir}: a sweep is running there"
            ) from error
        with read_write(config), open_dict(config):
            config.hydra.sweep.dir = str(folder)
            # jobs are composed from the overrides again, in other processes and perhaps elsewhere
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{folder}'")
            if config.hydra.launcher._target_.endswith(".submitit_launcher.LocalLauncher"):
                # it starts all jobs that it is given at once
                at_once = max(1, cpu_count() // (self.plan.threads or 1))
                if config.hydra.sweeper.get("max_batch_size", 0) is None:
                    config.hydra.sweeper.max_batch_size = at_once
        OmegaConf.save(config, folder / "multirun.yaml")

    def _announce(self, config: DictConfig) -> None:
        plan = self.plan
        of = f"{plan.total} jobs" if plan.total else "jobs"
        over = f" over {', '.join(plan.varied)}" if plan.varied else ""
        console.print(f"sweep of {of}{over}", style="bold", soft_wrap=True)
        console.print(f"folder      {shown(plan.folder)}", soft_wrap=True)
        if plan.before:
            console.print(f"taken up    {len(plan.before)} jobs are there already")
        console.print(
            f"go on       the same command and hydra.sweep.dir={shown(plan.folder)}, "
            "if it is stopped\n",
            soft_wrap=True,
        )

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if not hasattr(self, "plan"):  # a single run
            return
        Sweep.current = self
        if self.plan.cwd.is_dir():
            os.chdir(self.plan.cwd)
        for handler in logging.getLogger().handlers:
            if isinstance(handler, ConsoleHandler):  # the rest is in the job's own train.log
                handler.setLevel(logging.WARNING)
        if self.plan.parallel:
            _share_machine(self.plan, config.hydra.job.num)
        else:
            name = Path(config.hydra.runtime.output_dir).name
            console.print(begun(self.plan, name, config.hydra.overrides.task), soft_wrap=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if not hasattr(self, "plan") or self.plan.parallel:
            return
        folder = Path(config.hydra.runtime.output_dir)
        if result := _result(folder):
            console.print(ended(self.plan, folder.name, result), soft_wrap=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            status = self.sum_up(config.test)
        except MISTAKES as error:
            give_up(str(error), status=1)
        if status:
            raise SystemExit(status)

    def sum_up(self, test: bool) -> int:
        """Test the winner, write the summary, show it; returns the exit status."""
        if Sweep.watch:
            Sweep.watch.stop()
            Sweep.watch = None
        sweep = read_sweep(shown(self.plan.folder))
        if test and sweep.winner and examine_winner(sweep):
            sweep = read_sweep(sweep.folder)
        write(sweep)
        from lenet_pl.analysis.sweep_plots import save_picture  # matplotlib takes a second

        save_picture(sweep)
        console.print("", table(sweep, program()), sep="\n", soft_wrap=True)
        return int(sweep.counts["finished"] < len(sweep.jobs))


def run_job(cfg: DictConfig, train: Callable[[DictConfig], float | None]) -> float | None:
    """Run a job of a sweep unless it has been: its score, or None if it failed.

    A job that was cut off goes on from its last checkpoint; one that failed begins anew. Why one
    failed stands in its ``result.json``, and the others go on.
    """
    sweep, folder = Sweep.current, Path(cfg.run_dir)
    if sweep is None:  # the callback was taken out
        return train(cfg)
    overrides = list(HydraConfig.get().overrides.task)
    if sweep.plan.before.get(folder.name, overrides) != overrides:
        give_up(f"{shown(folder)}: holds a job of another sweep; choose another hydra.sweep.dir")
    result = _result(folder)
    if result and result["status"] == "finished":
        return result["metrics"].get("val/acc")
    last = folder / "checkpoints" / "last.ckpt"
    if last.is_file() and not (result and result["status"] == "failed"):
        cfg.ckpt_path = str(last)
    else:
        _clear(folder)
    cfg.label = label(sweep.plan, overrides)
    if sweep.plan.parallel and cfg.callbacks and "progress" in cfg.callbacks:
        cfg.callbacks.progress = None  # one bar to a terminal
    _add_columns(cfg, sweep.plan.varied)
    try:
        return train(cfg)
    except Exception:
        log.info("", exc_info=True)  # into the log file; result.json has the one line
        return None


def _add_columns(cfg: DictConfig, varied: tuple[str, ...]) -> None:
    """Have TensorBoard's HParams tab show everything that varied."""
    columns = str(OmegaConf.to_container(cfg.hparams))
    with open_dict(cfg.hparams):
        for key in varied:
            value = OmegaConf.select(cfg, key)
            if f"${{{key}}}" not in columns and isinstance(value, str | int | float | bool):
                cfg.hparams[key.replace(".", "_")] = value


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _share_machine(plan: Plan, number: int) -> None:
    """Keep to this job's share of the cores, and take the GPUs in turn."""
    import torch

    if plan.threads:
        # more would wait for each other spinning, which slows both down many times
        torch.set_num_threads(min(plan.threads, torch.get_num_threads()))
    if not torch.cuda.is_initialized() and (count := torch.cuda.device_count()) > 1:
        known = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
        os.environ["CUDA_VISIBLE_DEVICES"] = known.split(",")[number % count]


def _result(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def program() -> str:
    """How this program was called, for a command to paste."""
    return "python train.py" if Path(sys.argv[0]).name == "train.py" else "lenet-pl train"
