"""The Hydra callback for sweeps: checks a sweep, runs its jobs and summarises it."""

import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import UserDict
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NoReturn, cast

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lenet_pl import cli
from lenet_pl.config import monitored_metric
from lenet_pl.console import ConsoleHandler, console
from lenet_pl.errors import FAILED, INVALID, UserError, exit_on_error, fail, one_line
from lenet_pl.files import display_path, quoted, shell_override, write_bytes, write_json
from lenet_pl.naming import describe, override_values, parameter_overrides, typed, varied_values
from lenet_pl.records import override_key
from lenet_pl.runs import lock_run, program_name, train_command
from lenet_pl.sweeps import results
from lenet_pl.sweeps.commands import Summary
from lenet_pl.sweeps.plan import Plan, cpu_count, make_plan
from lenet_pl.sweeps.progress import Progress, print_line

log = logging.getLogger(__name__)

# issued in each job of a parallel launcher, where its plugin's schema is registered again
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore")


class SweepCallback(Callback):
    """Checks a sweep before its first job, runs its jobs and summarises it.

    A parallel launcher sends copies to its worker processes. Single runs are not affected.
    """

    # data shared by the jobs of a process; Hydra would copy a plain dict
    cache: ClassVar[UserDict[Any, Any]] = UserDict()

    plan: Plan

    def __getstate__(self) -> dict[str, Any]:
        return {"plan": self.plan}  # the lock and the thread cannot be pickled

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with exit_on_error(cli.explain):
            self.plan = make_plan(config, GlobalHydra.instance().config_loader())
            self._open_folder(config)
            self._announce()
        cli.sweep_error_hook = self.end_early
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # also between jobs
        self.progress = Progress(self.plan)
        if config.hydra.launcher._target_.endswith(".SlurmLauncher"):
            _check_accounting()
        if self.plan.threads:
            self.progress.thread.start()

    def _open_folder(self, config: DictConfig) -> None:
        """Lock the folder, and write the sweep's configuration and plan into it."""
        folder, hydra = self.plan.folder, config.hydra
        self.lock = lock_run(folder, "sweep")
        with read_write(config), open_dict(config):
            hydra.sweep.dir = str(folder)
            # jobs are composed from the overrides, possibly in another working directory
            hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(folder)}")
            # this launcher starts all jobs of a batch at once
            local = hydra.launcher._target_.endswith(".submitit_launcher.LocalLauncher")
            if local and hydra.sweeper.get("max_batch_size", 0) is None:
                hydra.sweeper.max_batch_size = max(1, cpu_count() // (self.plan.threads or 1))
        write_bytes(folder / "multirun.yaml", OmegaConf.to_yaml(config).encode())
        jobs = {name: parameter_overrides(job) for name, job in self.plan.jobs.items()}
        content = {"command": self._command(), "total": self.plan.total, "jobs": jobs}
        write_json(folder / "plan.json", content)

    def _announce(self) -> None:
        plan = self.plan
        title = "halving sweep" if plan.rungs else "sweep"
        title += f" of {plan.total} jobs" if plan.total else ""
        title += f" over {', '.join(plan.varied)}" if plan.varied else ""
        console.print(title, style="bold", markup=False, soft_wrap=True)
        print_line(f"folder      {display_path(plan.folder)}")
        if plan.threads:
            print_line(f"threads     {plan.threads} per job")
        if epochs := ", ".join(map(str, plan.rungs)):
            print_line(f"rungs       only the best settings continue after epoch {epochs}")
        print_line(f"if stopped  {self._command()}\n")

    def _command(self) -> str:
        """The command that continues this sweep."""
        other = ("hydra.sweep.dir", "hydra.searchpath")  # the latter is in train_command()
        arguments = [item for item in sys.argv[1:] if override_key(item) not in other]
        folder = shell_override("hydra.sweep.dir", display_path(self.plan.folder))
        return f"{train_command()} {shlex.join(arguments)} {folder}"

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        training: Any = cli.import_training()
        training.job_hook = self.run_job
        if self.plan.cwd.is_dir():
            os.chdir(self.plan.cwd)
        for handler in logging.getLogger().handlers:
            if isinstance(handler, ConsoleHandler):  # the rest is in the job's train.log
                handler.setLevel(logging.WARNING)
        if self.plan.threads:
            _limit_resources(self.plan, config.hydra.job.num)
            if config.hydra.launcher._target_.endswith(("JoblibLauncher", ".LocalLauncher")):
                end_with(self.plan.pid)
        else:
            folder = Path(config.hydra.runtime.output_dir)
            if not results.ended(folder, config.pause_after):
                self.progress.start(folder.name, config.hydra.overrides.task)

    def run_job(self, cfg: DictConfig) -> float | None:
        """Train a job to its end, or up to a rung, unless an earlier start has already done so.

        An interrupted job resumes from its last checkpoint; a failed one starts over. Returns the
        monitored metric, or None if the job failed, with the reason in ``result.json``.
        """
        from lenet_pl.training import train_run

        plan, folder = self.plan, Path(cfg.run_dir)
        overrides = list(HydraConfig.get().overrides.task)
        parameters = parameter_overrides(overrides)
        if plan.existing.get(folder.name, parameters) != parameters:
            # exit: Hydra would treat an exception as a failed job and start the next one
            fail(f"{display_path(folder)}: holds a job of another sweep; choose another folder")
        result, checkpoint = results.readable_result(folder), folder / "checkpoints/last.ckpt"
        if results.ended(folder, cfg.pause_after):
            return cast("float | None", result["metrics"].get(monitored_metric(cfg)))
        if checkpoint.is_file() and result.get("status") != "failed":
            cfg.ckpt_path = str(checkpoint)
        else:
            for path in folder.iterdir():  # left behind by an earlier start
                if path.name not in (".hydra", "train.log"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        text = describe(override_values(overrides), plan.varied)
        name = re.sub(r"[^\w.,+\- ]+", "-", ", ".join(filter(None, (cfg.name, text))))
        # also the name of a folder
        cfg.name = name.encode()[:120].decode(errors="ignore").strip(" .,+-") or None
        if plan.threads and cfg.callbacks and "progress" in cfg.callbacks:
            cfg.callbacks.progress = None  # progress bars of parallel jobs overwrite each other
        _add_hparams(cfg, plan.varied)
        try:
            return train_run(cfg, cache=self.cache)
        except Exception:
            log.info("failed", exc_info=True)  # the traceback is in train.log only
            return None

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode == RunMode.MULTIRUN and not self.plan.threads:
            self.progress.update()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        cli.sweep_error_hook = None
        with self.lock, exit_on_error(cli.explain):
            if not self.summarise(config.test):
                raise SystemExit(FAILED)

    def summarise(self, test: bool) -> bool:
        """Test the winner if all jobs have ended, and summarise; return whether nothing failed."""
        self.progress.stop()
        sweep, test_error = results.Sweep(display_path(self.plan.folder)), None
        if test and sweep.complete and sweep.winner:
            from lenet_pl.evaluation.evaluate import test_winner  # imports torch

            try:
                test_winner([job.folder for job in sweep.winner.jobs])
                sweep = results.Sweep(sweep.folder)
            except UserError as error:
                test_error = str(error)
        summary = Summary(sweep, test_error)
        summary.write_files()
        console.print("", summary.text(program_name()), sep="\n", soft_wrap=True)
        return sweep.complete and not sweep.counts["failed"] and not test_error

    def end_early(self, error: BaseException) -> NoReturn:
        """Summarise the jobs so far after a signal or a launcher error, and exit."""
        if isinstance(error, SystemExit) and error.code == INVALID:
            raise error
        with self.lock:
            try:
                with exit_on_error(cli.explain):
                    self.summarise(test=False)  # ends with the command that continues the sweep
            except SystemExit:
                print_line(f"to continue  {self._command()}")
        stopped = isinstance(error, SystemExit | KeyboardInterrupt)
        fail("stopped" if stopped else f"{type(error).__name__}: {one_line(error)}", FAILED)


def _check_accounting() -> None:
    """Stop submitit from calling sacct where accounting is off; each call would log a warning."""
    found = shutil.which("sacct")
    done = subprocess.run([found], capture_output=True, text=True, check=False) if found else None
    if done is None or "accounting storage is disabled" in done.stderr:
        from submitit.slurm.slurm import SlurmInfoWatcher

        # submitit also detects the end of a job by its result file
        SlurmInfoWatcher.update = lambda self: None  # type: ignore[method-assign]


def _limit_resources(plan: Plan, number: int) -> None:
    """Limit a parallel job to its CPU threads, and assign the GPUs to the jobs in turn."""
    import torch

    # with more threads than cores, threads busy-wait for each other: many times slower
    torch.set_num_threads(min(plan.threads or 1, torch.get_num_threads()))
    if not cast(Any, torch.cuda).is_initialized() and (count := torch.cuda.device_count()) > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[number % count]


@cache  # one thread per process, which may run several jobs
def end_with(pid: int) -> None:
    """End this process within seconds of the sweep's main process, even if that is killed."""
    parent = os.getppid()  # the main process or, with submitit, a child of it

    def watch() -> None:
        with suppress(OSError):
            while os.getppid() == parent:
                os.kill(pid, 0)  # checks that it exists
                time.sleep(1)
        os._exit(FAILED)

    if os.name == "posix":
        threading.Thread(target=watch, daemon=True).start()


def _add_hparams(cfg: DictConfig, varied: tuple[str, ...]) -> None:
    """Limit TensorBoard's HParams tab, which shows only five columns, to the varied keys."""
    values = varied_values(override_values(HydraConfig.get().overrides.task), varied).items()
    cfg.hparams = {name.replace(".", "_"): typed(x) for name, x in values} or cfg.hparams
