"""Stress tests of what the project promises, repeated and counted.

    python benchmarks/trust.py [--quick] [--only kills,signals] [--seed 0] [--json FILE]

Runs are killed, signalled and resumed, files are damaged, disks are filled, and command lines are
generated at random; docs/reliability.md describes the items. Each case runs in an empty folder. The
table counts the cases that were tried and that held; failures are printed with their case. The exit
status is 1 if there are any.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: cases run in parallel
sys.path.append(str(Path(__file__).parents[1] / "tests"))

from common import markdown, positive_int, save
from helpers.commands import CONTEXT, ensure_server
from trust_checks import base, folders, fuzz, inputs, interruptions, machine, processes

# module, in the order of the table; an item belongs to the module that yields its cases
MODULES = (interruptions, inputs, folders, fuzz, machine, processes)
ITEMS = {name: text for module in MODULES for name, text in module.ITEMS.items()}


def run_case(case: base.Case, folder: Path) -> tuple[str, str]:
    """Return ``held``, ``failed`` or ``skipped``, and why; called in a worker process."""
    (folder / "w").mkdir(parents=True)
    try:
        case.check(folder / "w")
    except base.SkippedError as reason:
        return "skipped", str(reason)
    except base.FailedError as error:
        return "failed", str(error)
    except Exception as error:  # for example, a file that a finished run should have
        return "failed", f"{type(error).__name__}: {error}"
    finally:
        base.end_all()
        shutil.rmtree(folder, ignore_errors=True)
    return "held", ""


def run_all(cases: Sequence[base.Case], workers: int, folder: Path) -> list[dict[str, Any]]:
    """The outcome of each case, in the order of the cases."""
    outcomes: dict[int, dict[str, Any]] = {}
    ensure_server()
    with ProcessPoolExecutor(workers, CONTEXT, base.use_folder, (folder,)) as pool:
        running = {
            pool.submit(run_case, case, folder / str(number)): (number, case)
            for number, case in enumerate(cases)
        }
        for future in as_completed(running):
            number, case = running[future]
            status, why = future.result()
            outcomes[number] = {"item": case.item, "case": case.name, "status": status, "why": why}
            print(f"\r{len(outcomes)} of {len(cases)}", end="\r", file=sys.stderr, flush=True)
            if status != "held":
                print(f"{status}: {case.item}: {case.name}: {why}", flush=True)
    return [outcomes[number] for number in sorted(outcomes)]


def table(outcomes: Sequence[dict[str, Any]]) -> str:
    """Tried, held and failed cases of each item, as Markdown."""
    lines: list[list[object]] = []
    for item, text in ITEMS.items():
        found = [outcome["status"] for outcome in outcomes if outcome["item"] == item]
        if tried := len(found) - found.count("skipped"):
            lines.append([f"`{item}`", text, tried, found.count("held"), found.count("failed")])
        elif found:
            lines.append([f"`{item}`", text, "not run", "", ""])
    return markdown(["item", "what is tried", "tried", "held", "failed"], lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few cases of each item")
    parser.add_argument("--only", help=f"items, separated by commas: {', '.join(ITEMS)}")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    parser.add_argument("--workers", type=positive_int, default=2, help="cases run in parallel")
    parser.add_argument("--mnist", type=Path, help="a folder with MNIST/raw, for the item data")
    parser.add_argument("--json", type=Path, help="write all outcomes to this file")
    options = parser.parse_args()
    items = options.only.split(",") if options.only else [*ITEMS]
    if unknown := set(items) - set(ITEMS):
        parser.error(f"--only={','.join(unknown)}: choose from {', '.join(ITEMS)}")
    cases = [case for m in MODULES for case in m.cases(options) if case.item in items]
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="trust-"))
    try:
        outcomes = run_all(cases, options.workers, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    failed = [outcome for outcome in outcomes if outcome["status"] == "failed"]
    if options.json:
        options.json.write_text(json.dumps(outcomes, indent=2) + "\n")
    minutes = (time.monotonic() - began) / 60
    text = f"{table(outcomes)}\n{len(cases)} cases in {minutes:.0f} minutes\n"
    text += "".join(f"\n- `{o['item']}`: {o['case']}: {o['why']}" for o in failed)
    save("trust", text, threads=1)
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
