"""Exported files compute what PyTorch computes, or are not written."""

import dataclasses
import json
import logging
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.commands import ROOT
from helpers.programs import require

from lenet_pl.errors import DataError, VerificationError
from lenet_pl.export import browser
from lenet_pl.export.export import export
from lenet_pl.runs import open_run


def test_onnx_model_computes_the_probabilities_of_pytorch(
    run, tmp_path, lenet_pl, probabilities, test_split, caplog
):
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = shutil.copytree(run, tmp_path / "copy")
    caplog.set_level(logging.INFO)  # as after training in a notebook
    status, out, err = lenet_pl("export", folder, "--format", "onnx", "--json")
    assert status == 0, err
    assert [record.message for record in caplog.records if "onnx" in record.name] == []
    answer = json.loads(out)
    assert answer["file"] == str(folder / "export" / "model.onnx")
    assert (answer["images"], answer["agree"]) == (1000, 1000)
    assert answer["difference"] <= 1e-4
    predicted = probabilities.argmax(1)
    assert answer["accuracy"] == (predicted == test_split.labels).double().mean().item()
    # the weights are in the file itself
    assert [path.name for path in (folder / "export").iterdir()] == ["model.onnx"]

    session = onnxruntime.InferenceSession(folder / "export" / "model.onnx")
    (images,), (output,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape[1:]) == ("images", "tensor(uint8)", [1, 28, 28])
    assert output.name == "probabilities"
    for batch in (1, 7):
        actual = session.run(None, {"images": test_split.images[:batch].numpy()})[0]
        assert np.abs(actual - probabilities[:batch].numpy()).max() < 1e-5
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == [*"0123456789"]
    assert json.loads(facts["accuracy"]) == answer["accuracy"]
    assert str(ROOT) not in (folder / "export" / "model.onnx").read_bytes().decode("latin-1")


@pytest.mark.slow
def test_torch_program_does_not_need_the_package(
    run, lenet_pl, probabilities, test_split, tmp_path
):
    file = tmp_path / "new" / "folder" / "name.pt2"
    status, out, err = lenet_pl("export", run, "--format", "torch", "--output", file)
    assert status == 0, err
    assert "the same for all" in out
    assert "on 1,000 test images" in out
    assert file.stat().st_size < 500_000  # the weights, but not the test images
    np.save(tmp_path / "images.npy", test_split.images[:9].numpy())
    script = (
        "import sys, json; sys.modules['lenet_pl'] = None\n"
        "import numpy, torch\n"
        "extra = {'metadata.json': ''}\n"
        f"program = torch.export.load({str(file)!r}, extra_files=extra).module()\n"
        f"images = torch.from_numpy(numpy.load({str(tmp_path / 'images.npy')!r}))\n"
        "print(json.dumps([program(images).tolist(), json.loads(extra['metadata.json'])]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    actual, facts = json.loads(done.stdout)
    assert np.abs(np.array(actual) - probabilities[:9].numpy()).max() < 1e-6
    assert facts["classes"] == [*"0123456789"]


def test_untested_run_is_verified_on_validation_images(run, tmp_path):
    opened = open_run(str(run))
    metrics = {k: v for k, v in opened.result["metrics"].items() if not k.startswith("test/")}
    untested = dataclasses.replace(opened, result=opened.result | {"metrics": metrics})
    result = export(untested, "torch", tmp_path / "a.pt2")
    assert (result["split"], result["accuracy"]) == ("val", metrics["val/acc"])
    assert result["notes"] == []
    facts = metadata(result)
    assert (facts["split"], facts["accuracy"]) == ("validation", result["accuracy"])
    assert facts["model"] == "LeNet"


def test_pooled_run_has_a_note(run, tmp_path):
    opened = open_run(str(run))
    data = opened.result["data"] | {"pooled": True}
    pooled = dataclasses.replace(opened, result=opened.result | {"data": data})
    result = export(pooled, "torch", tmp_path / "a.pt2")
    [note] = result["notes"]
    assert "not comparable with published results" in note
    assert metadata(result)["notes"] == [note]


def metadata(result: dict) -> dict:
    """The description in a ``torch.export`` program."""
    extra = {"metadata.json": ""}
    torch.export.load(result["file"], extra_files=extra)
    return json.loads(extra["metadata.json"])


def test_changed_data_is_an_error(run, tmp_path):
    opened = open_run(str(run))
    opened.state["DigitsDataModule"]["digest"] = "another"
    with pytest.raises(DataError, match="has changed since"):
        export(opened, "torch", tmp_path / "a.pt2")
    assert not [*tmp_path.iterdir()]


def test_page_with_wrong_weights_is_not_written(run, lenet_pl, monkeypatch, tmp_path):
    require("node")

    steps_and_weights = browser.trace

    def wrong_weights(*args):
        steps, weights = steps_and_weights(*args)
        return steps, weights * 1.1

    monkeypatch.setattr(browser, "trace", wrong_weights)
    file = tmp_path / "new" / "a.html"
    status, out, err = lenet_pl("export", run, "--format", "html", "--output", file)
    assert (status, out) == (1, "")
    assert err.startswith("error: a.html: a probability differs by ")
    assert len(err.splitlines()) == 1
    assert not [*tmp_path.iterdir()]


def test_page_whose_script_fails_is_not_written(run, monkeypatch, tmp_path):
    require("node")

    steps_and_weights = browser.trace

    def unknown_operation(*args):
        steps, weights = steps_and_weights(*args)
        return [steps[0] | {"op": "unknown"}, *steps[1:]], weights

    monkeypatch.setattr(browser, "trace", unknown_operation)
    with pytest.raises(VerificationError, match=r"a\.html: failed in the page's script in Node.js"):
        export(open_run(str(run)), "html", tmp_path / "a.html")
    assert not [*tmp_path.iterdir()]
