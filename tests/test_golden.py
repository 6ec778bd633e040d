"""Golden runs: numbers and formats as they were recorded in ``tests/golden``.

They know command lines, override keys and files, and nothing of the code behind them, so they
outlast a change of modules, classes and functions.

The losses of the first ten steps hold on every machine, to 1e-4. What an epoch amounts to holds
on the machine that recorded it, to 1e-2; on another one those tests are skipped. While code is
only moved, on one machine, everything must stay as it is to the bit, the weights too::

    LENET_PL_GOLDEN_EXACT=1 pytest tests/test_golden.py

After a change that is meant, record anew, which compares nothing, look at the difference in git,
and commit it::

    pytest tests/test_golden.py --record-golden -n 0
    pytest tests/test_golden.py --record-golden -n 0 -k "mlp or help"
"""

import base64
import csv
import gzip
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from helpers.commands import ROOT, Running
from helpers.programs import require
from PIL import Image

GOLDEN = Path(__file__).parent / "golden"
EXACT = os.environ.get("LENET_PL_GOLDEN_EXACT") == "1"

QUICK = ["data=mini", "trainer.accelerator=cpu"]
RUNS = {
    "defaults": "optimizer.lr=0.05 data.fraction=0.2",
    "best": "experiment=best data.fraction=0.3 logger=none",
    "fast": "experiment=fast data.fraction=0.2 logger=none",
    "onecycle_ema": "scheduler=onecycle callbacks=ema callbacks.average.decay=0.7 "
    "optimizer.lr=0.05 data.fraction=0.2 logger=none",
    # the second epoch has the images as they are
    "affine": "augment=affine data.augment_until=0.5 optimizer.lr=0.05 data.fraction=0.2 "
    "logger=none",
    # five steps an epoch, so that the first ten have seen the network frozen and let go; at larger
    # rates it is so unstable that rounding differences between machines grow beyond 1e-4
    "finetune": "experiment=finetune model.name=shufflenet_v2_x0_5 model.weights=null "
    "callbacks.finetune.lr_factor=0.01 data.batch_size=64 data.fraction=0.064 logger=none",
    "mlp": "experiment=mlp data.fraction=0.2 logger=none",
    "lstm": "experiment=lstm trainer.gradient_clip_val=0.1 data.fraction=0.2 logger=none",
}
# thirty steps, so that its weights are the same on every machine but for rounding
SHORT = [*QUICK, "trainer.limit_train_batches=30", "trainer.max_epochs=1", "optimizer=adam"]

Check = Callable[[str, str, Any], Any]
Command = Callable[..., tuple[int, str, str]]  # lenet-pl: status, output and errors


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Check:
    """What was recorded in a file under a key; with ``--record-golden``, record what is there."""

    def recorded(name: str, key: str, found: Any) -> Any:
        path = GOLDEN / f"{name}.json"
        if not request.config.getoption("--record-golden"):
            return json.loads(path.read_text(encoding="utf-8"))[key]
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        text = json.dumps(kept | {key: found}, indent=2, sort_keys=True, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
        return found

    return recorded


def launch(folder: Path, *words: str) -> str:
    """``python train.py WORDS`` in a folder; what it printed, once it has succeeded."""
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(GOLDEN)  # the command's, too
        done = Running(*words, cwd=folder).wait()
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


# numbers


class Numbers(NamedTuple):
    """What a golden run left behind.

    Attributes:
        name: of its golden file.
        facts: what holds on every machine.
        losses: of the first ten steps.
        epochs: rows of ``metrics.csv`` and the metrics of the test, by dotted key.
        weights: the SHA-256 of the tensors in ``best.pth``, and of the last checkpoint's.
        machine: what the last bits depend on.
    """

    name: str
    facts: dict[str, Any]
    losses: list[float]
    epochs: dict[str, float]
    weights: dict[str, str]
    machine: dict[str, Any]


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Numbers:
    """A run of two epochs, of which the losses of the first steps are listened to."""
    folder = tmp_path_factory.mktemp(request.param)
    listener = ["+callbacks.golden._target_=step_losses.StepLosses", "+callbacks.golden.path=steps"]
    words = [*QUICK, *RUNS[request.param].split(), "trainer.max_epochs=2", "hydra.run.dir=run"]
    launch(folder / "work", *words, *listener)
    run = folder / "work" / "run"
    result = read_json(run / "result.json")
    head, *rows = read_csv(run / "metrics.csv")
    table = [dict(zip(head, map(float, row), strict=True)) for row in rows]
    columns = ("train/loss", "train/acc", "val/loss", "val/acc")
    data = result["data"]
    last = torch.load(run / "checkpoints" / "last.ckpt")
    return Numbers(
        name=request.param,
        facts={
            "status": result["status"],
            "device": result["device"],
            "epochs": result["epochs"],
            "parameters": result["parameters"],
            "digest": data["digest"],
            "split_digest": data["split_digest"],
            "counts": data["counts"],
            "mean": data["mean"],
            "std": data["std"],
            "metrics": sorted(result["metrics"]),
            "columns": head,
            "lr": [row["lr"] for row in table],
        },
        losses=read_json(folder / "work" / "steps"),
        epochs={f"epoch {row['epoch']:.0f} {name}": row[name] for row in table for name in columns}
        | result["metrics"],
        weights={"best": digest(torch.load(run / "best.pth")), "last": digest(last["state_dict"])},
        machine=machine(),
    )


def digest(state: dict[str, torch.Tensor]) -> str:
    """The SHA-256 of names, types, shapes and bytes."""
    found = hashlib.sha256()
    for name, value in sorted(state.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.contiguous().numpy().tobytes())
    return found.hexdigest()


def machine() -> dict[str, Any]:
    """What the last bits of a sum depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def test_data_split_parameters_and_learning_rate_of_a_run(run: Numbers, golden: Check) -> None:
    expected = golden(run.name, "facts", run.facts)
    assert run.facts["device"] == "cpu (1 thread)"  # or the numbers mean nothing
    if not EXACT:  # sums in double precision
        expected = expected | {
            name: pytest.approx(expected[name], rel=1e-9) for name in ("mean", "std", "lr")
        }
    assert run.facts == expected


def test_losses_of_the_first_ten_steps(run: Numbers, golden: Check) -> None:
    expected = golden(run.name, "losses", run.losses)
    assert len(run.losses) == 10
    assert run.losses == (expected if EXACT else pytest.approx(expected, rel=0, abs=1e-4))


def test_metrics_of_both_epochs_and_of_the_test(run: Numbers, golden: Check) -> None:
    there = golden(run.name, "machine", run.machine)
    expected = golden(run.name, "epochs", run.epochs)
    weights = golden(run.name, "weights", run.weights)
    if EXACT:
        assert run.machine == there, "recorded on another machine; record on this one first"
        assert run.epochs == expected
        assert run.weights == weights
        return
    assert run.epochs.keys() == expected.keys()
    if run.machine != there:
        pytest.skip(f"recorded on another machine: {there}")
    assert run.epochs == pytest.approx(expected, rel=0, abs=1e-2)


# formats


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run, to read from; who writes there copies it."""
    folder = tmp_path_factory.mktemp("finished") / "work"
    launch(folder, *SHORT, "optimizer.lr=0.002", "hydra.run.dir=run")
    return folder / "run"


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, as ``run`` in the folder that ``lenet-pl`` is started in."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep over two settings with two seeds each."""
    folder = tmp_path_factory.mktemp("swept") / "work"
    grid = ["optimizer.lr=0.001,0.002", "seed=0,1", "hydra.sweep.dir=sweep", "logger=none"]
    launch(folder, "-m", *SHORT, *grid)
    return folder / "sweep"


def keys(node: Any, reduced: Iterable[str] = (), path: str = "") -> set[str]:
    """The dotted keys of a JSON value, those of all items of a list taken together.

    Args:
        node: the value.
        reduced: keys whose content is not listed.
        path: the key of the value itself.
    """
    if path in reduced:
        return {path}
    if isinstance(node, dict) and node:
        below = [(f"{path}.{key}".lstrip("."), value) for key, value in node.items()]
    elif isinstance(node, list) and any(isinstance(item, dict | list) for item in node):
        below = [(f"{path}[]", value) for value in node]
    else:
        return {path}
    return set().union(*(keys(value, reduced, name) for name, value in below))


def files(folder: Path) -> list[str]:
    """The files in a folder but locks, with what is new each time replaced by stars."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    names = {path.relative_to(folder).as_posix() for path in paths}
    stamp = r"tfevents\.\d+\.[^/]*\.\d+"
    # a report's number counts all event files of this process, those of earlier tests too
    names = {re.sub(rf"{stamp}\.\d+\.report", "tfevents.*.0.report", name) for name in names}
    return sorted(re.sub(rf"{stamp}\.(\d+)", r"tfevents.*.\1", name) for name in names)


def same(golden: Check, key: str, found: Any) -> None:
    """Assert that a format is what was recorded."""
    assert found == golden("formats", key, found)


def test_files_in_a_run_folder(finished: Path, golden: Check) -> None:
    same(golden, "run: files", files(finished))


def test_keys_of_result_json(finished: Path, golden: Check) -> None:
    found = keys(read_json(finished / "result.json"), ["metrics", "versions", "git"])
    same(golden, "result.json", sorted(found))


def test_files_of_a_debugging_run_and_keys_of_cleaning_json(tmp_path: Path, golden: Check) -> None:
    words = ["data=mini", "trainer=debug", "data.clean=true", "data.suspect_folds=2"]
    launch(tmp_path / "work", *words, "data.fraction=0.2", "hydra.run.dir=run")
    same(golden, "debug: files", files(tmp_path / "work" / "run"))
    found = read_json(tmp_path / "work" / "run" / "cleaning.json")
    assert found["suspects"]  # or their keys would not be seen
    same(golden, "cleaning.json", sorted(keys(found)))


def test_columns_of_metrics_csv(finished: Path, golden: Check) -> None:
    same(golden, "metrics.csv", read_csv(finished / "metrics.csv")[0])


def test_files_and_columns_of_predictions(
    copied: Path, tmp_path: Path, golden: Check, lenet_pl: Command
) -> None:
    images, labels = digits(10), "0123456789"
    for image, label in zip(images, labels, strict=True):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        Image.fromarray(image[0]).save(tmp_path / "pictures" / label / "a.png")
    found = {}
    for words in ([], ["--split", "val"], ["--data", "pictures"]):
        before = {*copied.iterdir()}
        status, out, err = lenet_pl("test", "run", *words, "--json")
        assert status == 0, err
        [path] = {*copied.iterdir()} - before
        assert json.loads(out)["predictions"] == f"run/{path.name}"
        head, *rows = read_csv(path)
        found[path.name] = {"columns": head, "rows": len(rows)}
    same(golden, "predictions", found)


def test_keys_of_what_commands_answer_programs(
    copied: Path, tmp_path: Path, golden: Check, lenet_pl: Command
) -> None:
    Image.fromarray(digits(1)[0, 0]).save(tmp_path / "digit.png")
    found = {}
    for words in (["test", "run", "--robust"], ["predict", "run", "digit.png"], ["report", "run"]):
        status, out, err = lenet_pl(*words, "--json")
        assert status == 0, err
        # what is advised depends on the numbers
        found[words[0]] = sorted(keys(json.loads(out), ["findings[].overrides"]))
    same(golden, "answers", found)
    added = {*files(copied)} - {"predictions.csv"}
    same(golden, "report: files", sorted(name for name in added if "report" in name))


def test_files_in_a_sweep_folder(swept: Path, golden: Check) -> None:
    same(golden, "sweep: files", files(swept))


def test_columns_of_sweep_csv(swept: Path, golden: Check) -> None:
    head, *rows = read_csv(swept / "sweep.csv")
    assert len(rows) == 4
    same(golden, "sweep.csv", head)


def test_keys_of_sweep_json(swept: Path, golden: Check) -> None:
    same(golden, "sweep.json", sorted(keys(read_json(swept / "sweep.json"))))


def test_the_sweep_command_leaves_the_table_as_it_is(
    swept: Path, tmp_path: Path, lenet_pl: Command
) -> None:
    copy = Path(shutil.copytree(swept, tmp_path / "sweep"))
    status, out, err = lenet_pl("sweep", "sweep", "--json")
    assert status == 0, err
    assert json.loads(out) == read_json(copy / "sweep.json") == read_json(swept / "sweep.json")
    assert (copy / "sweep.csv").read_bytes() == (swept / "sweep.csv").read_bytes()


# help


def arguments(text: str) -> list[str]:
    """Options and positional arguments that a ``--help`` names, with their choices."""
    heads = re.findall(r"^  (?:  )?(\S.*?)(?:  .*)?$", text.split("\n\n", 2)[2], re.MULTILINE)
    return sorted(re.sub(r" [A-Z]+$", "", head) for head in heads)


@pytest.mark.parametrize(
    "command", ["", "test", "predict", "report", "list", "export", "sweep", "new"]
)
def test_help_of_the_commands(
    command: str,
    golden: Check,
    lenet_pl: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # so that nothing is wrapped
    status, out, err = lenet_pl(*command.split(), "--help")
    assert status == 0, err
    found = arguments(out)
    assert found == golden("help", f"lenet-pl {command}".strip(), found)


def test_help_of_training(tmp_path: Path, golden: Check) -> None:
    """Groups with their options, and the keys with their defaults."""
    text = launch(tmp_path / "work", "--help")
    _, _, text = text.partition("\nGroups: ")
    groups, _, config = text.partition("\nKeys: override with key=value\n")
    options = dict(line.split(": ", 1) for line in groups.strip().splitlines()[1:])
    assert options == golden("help", "train.py: groups", options)
    found = {
        key: value
        for key, value in defaults(yaml.safe_load(config))
        if not key.endswith(("_target_", "_partial_"))  # where code lies, and what kind it is
    }
    assert found == golden("help", "train.py: keys", found)


def defaults(node: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted keys of a configuration, and their values."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from defaults(value, f"{path}.{key}".lstrip("."))
    else:
        yield path, node


# exports


def digits(count: int) -> np.ndarray:
    """The first test images that ship, uint8 ``[N, 1, 28, 28]``."""
    [path] = (ROOT / "src").rglob("t10k-images-idx3-ubyte.gz")
    raw = gzip.decompress(path.read_bytes())
    return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 1, 28, 28)[:count].copy()


def run_onnx(file: Path, images: np.ndarray) -> np.ndarray:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(file)
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def run_torch(file: Path, images: np.ndarray) -> np.ndarray:
    return torch.export.load(file).module()(torch.from_numpy(images)).detach().numpy()


def run_html(file: Path, images: np.ndarray) -> np.ndarray:
    """The page's own first script, in Node.js."""
    node = require("node")
    pixels = [base64.b64encode(image.tobytes()).decode() for image in images]
    script = f"""
const html = require("fs").readFileSync({json.dumps(str(file))}, "utf8");
const text = (start) => html.split(start)[1].split("</script>")[0];
const Network = new Function(text("<script>") + "; return Network;")();
const network = new Network(JSON.parse(text('id="network">')), text('id="weights">'));
const all = {json.dumps(pixels)}.map((image) => network.classify(Buffer.from(image, "base64")));
console.log(JSON.stringify(all));
"""
    done = subprocess.run([node, "-"], input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout))


EXPORTS = {
    "onnx": ("model.onnx", run_onnx),
    "torch": ("model.pt2", run_torch),
    "html": ("digit.html", run_html),
}


@pytest.mark.parametrize("format", EXPORTS)
def test_probabilities_of_ten_images_after_export(
    format: str, copied: Path, golden: Check, lenet_pl: Command
) -> None:
    name, compute = EXPORTS[format]
    status, out, err = lenet_pl("export", "run", "--format", format, "--json")
    assert status == 0, err
    answer = json.loads(out)
    assert answer["file"] == f"run/export/{name}"
    assert files(copied / "export") == [name]
    found = compute(copied / "export" / name, digits(10))
    rows = [[round(float(share), 7) for share in row] for row in found]
    expected = golden("exports", "probabilities", rows)
    assert found == pytest.approx(np.array(expected), rel=0, abs=1e-4)
    answered = sorted(answer)
    assert answered == golden("exports", "answer", answered)


def test_probabilities_of_ten_images_in_predictions_csv(
    copied: Path, golden: Check, lenet_pl: Command
) -> None:
    status, _, err = lenet_pl("test", "run")
    assert status == 0, err
    head, *rows = read_csv(copied / "predictions.csv")
    shares = [column for column, name in enumerate(head) if name.startswith("p(")]
    ten = sorted(rows, key=lambda row: int(row[head.index("index")]))[:10]
    found = [[round(float(row[column]), 7) for column in shares] for row in ten]
    assert found == pytest.approx(np.array(golden("exports", "probabilities", found)), abs=1e-4)
