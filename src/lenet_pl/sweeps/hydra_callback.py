"""The Hydra callback of a sweep: it looks ahead, keeps count, and sums up."""

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock, Timeout
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from lenet_pl.cli import explain
from lenet_pl.console import ConsoleHandler, console
from lenet_pl.errors import ConfigError, UserError, fail
from lenet_pl.files import display_path
from lenet_pl.sweeps.files import write
from lenet_pl.sweeps.plan import Plan, make_plan
from lenet_pl.sweeps.progress import Watch, begun, ended, read_result
from lenet_pl.sweeps.results import job_folders, read_sweep
from lenet_pl.sweeps.tables import table

# a worker of a parallel launcher meets the plugin's schema beside our preset again, for every job
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore")


class Sweep(Callback):
    """Checks a sweep before its first job, tells how it goes, and sums it up.

    Travels to the processes of a parallel launcher, and stands around each job there.
    """

    plan: Plan
    current: ClassVar["Sweep | None"] = None  # the one whose job runs in this process
    watch: ClassVar[Watch | None] = None
    lock: ClassVar[FileLock | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _told(status=2):
            self.plan = make_plan(config, GlobalHydra.instance().config_loader())
            for data in self.plan.data:  # once for all jobs, whatever process they run in
                instantiate(data.source)(data.root).prepare()
            self._open_folder(config)
            self._announce()
        if self.plan.parallel:
            Sweep.watch = Watch(self.plan)
            Sweep.watch.start()
        Sweep.current = self
        from lenet_pl import cli

        cli.launch_error_hook = self.broken

    def _open_folder(self, config: DictConfig) -> None:
        """Take the folder for this process alone, and note what is going to happen in it."""
        folder, asked = self.plan.folder, f"hydra.sweep.dir={config.hydra.sweep.dir}"
        Sweep.lock = FileLock(folder / ".lock")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            Sweep.lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(f"{asked}: a sweep is running there") from error
        except OSError as error:
            raise ConfigError(f"{asked}: cannot write there; choose another folder") from error
        with read_write(config), open_dict(config):
            config.hydra.sweep.dir = str(folder)
            # jobs are composed from the overrides again, perhaps in a process that lives elsewhere
            quoted = str(folder).replace("'", r"\'")
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{quoted}'")
            if self.plan.batch and config.hydra.sweeper.get("max_batch_size", 0) is None:
                config.hydra.sweeper.max_batch_size = self.plan.batch
        OmegaConf.save(config, folder / "multirun.yaml")

    def _announce(self) -> None:
        plan = self.plan
        title = f"sweep of {plan.total} jobs" if plan.total else "sweep"
        title += f" over {', '.join(plan.varied)}" if plan.varied else ""
        lines = [f"folder      {display_path(plan.folder)}"]
        if plan.before:
            results = [read_result(plan.folder / name) for name in plan.before]
            whole = sum(found is not None and found["status"] == "finished" for found in results)
            rest = len(results) - whole
            lines.append(f"taken up    {whole} jobs are finished, {rest} go on or begin anew")
        if plan.threads:
            lines.append(f"threads     {plan.threads} for each job")
        lines.append(
            f"if stopped  the same command and hydra.sweep.dir={display_path(plan.folder)}"
        )
        console.print(title, style="bold", markup=False, soft_wrap=True)
        console.print(*lines, "", sep="\n", markup=False, soft_wrap=True)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if not hasattr(self, "plan"):  # a single run
            return
        Sweep.current = self
        from lenet_pl import training
        from lenet_pl.sweeps.job import run_job

        training.job_hook = lambda cfg: run_job(cfg, training.train_run)
        if self.plan.cwd.is_dir():
            os.chdir(self.plan.cwd)
        for handler in logging.getLogger().handlers:
            if isinstance(handler, ConsoleHandler):  # the rest is in the job's own train.log
                handler.setLevel(logging.WARNING)
        if self.plan.parallel:
            _share_machine(self.plan, config.hydra.job.num)
        else:
            name = Path(config.hydra.runtime.output_dir).name
            said = begun(self.plan, name, config.hydra.overrides.task)
            console.print(said, markup=False, soft_wrap=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if not hasattr(self, "plan") or self.plan.parallel:
            return
        folder = Path(config.hydra.runtime.output_dir)
        if result := read_result(folder):
            said = ended(self.plan, folder.name, result)
            console.print(said, markup=False, soft_wrap=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        with _told(status=1):
            whole = self.sum_up(config.test)
        if not whole:
            raise SystemExit(1)

    def sum_up(self, test: bool) -> bool:
        """Test the winner, write the summary, show it; returns whether all is well.

        As long as jobs are missing there is no winner to test; those that failed have had their
        chance.
        """
        if Sweep.watch:
            Sweep.watch.stop()
            Sweep.watch = None
        sweep = read_sweep(display_path(self.plan.folder))
        over = not sweep.counts.keys() - {"finished", "failed"}
        over = over and len(sweep.jobs) >= (self.plan.total or 0)
        if test and over and sweep.winner:
            from lenet_pl.evaluation.evaluate import test_winner  # imports torch

            try:
                test_winner([job.folder for job in sweep.winner.jobs])
                sweep = read_sweep(sweep.folder)
            except UserError as error:  # the table is due all the same
                sweep = replace(sweep, untested=str(error))
        write(sweep)
        from lenet_pl.sweeps.plots import save_picture  # matplotlib takes a second

        save_picture(sweep)
        console.print("", table(sweep, _program()), sep="\n", soft_wrap=True)
        return over and not sweep.counts["failed"] and not sweep.untested

    def broken(self, error: Exception) -> str:
        """Sum up what there is after the launcher itself has failed; returns the reason."""
        if job_folders(self.plan.folder):
            with _told(status=1):
                self.sum_up(test=False)
        reason = f"{type(error).__name__}: {error}"
        folder = display_path(self.plan.folder)
        return f"{reason}; the same command goes on with hydra.sweep.dir={folder}"


@contextmanager
def _told(status: int) -> Iterator[None]:
    """End with one line for a mistake; Hydra would turn any exception here into a warning."""
    try:
        yield
    except UserError as error:
        fail(str(error), status)
    except (HydraException, OmegaConfBaseException) as error:
        fail(str(explain(error)), status)
    except Exception as error:
        traceback.print_exc()
        raise SystemExit(1) from error


def _share_machine(plan: Plan, number: int) -> None:
    """Keep to this job's share of the cores, and take the GPUs in turn."""
    import torch

    if plan.threads:
        # more would wait for each other spinning, which slows both down many times
        torch.set_num_threads(min(plan.threads, torch.get_num_threads()))
    if not torch.cuda.is_initialized() and (count := torch.cuda.device_count()) > 1:
        known = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
        os.environ["CUDA_VISIBLE_DEVICES"] = known.split(",")[number % count]


def _program() -> str:
    """How this program was called, for a command to paste."""
    return "python train.py" if Path(sys.argv[0]).name == "train.py" else "lenet-pl train"
