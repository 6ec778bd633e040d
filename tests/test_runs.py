"""Run folders: finding and resuming them, and configurations that are not trusted."""

from pathlib import Path

import pytest
import torch
from helpers.runs import FAST
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lenet_pl.errors import ConfigError, DataError
from lenet_pl.runs import find_run, open_run, read_metrics, read_result, resume_arguments, trusted


def make_run(folder: Path, mode: str = "RUN", overrides: str = "[]") -> Path:
    """A folder with what resuming looks at, and an empty checkpoint."""
    for path in (".hydra/overrides.yaml", ".hydra/hydra.yaml", "checkpoints/last.ckpt"):
        (folder / path).parent.mkdir(exist_ok=True, parents=True)
        (folder / path).touch()
    (folder / ".hydra" / "hydra.yaml").write_text(f"hydra:\n  mode: {mode}\n")
    (folder / ".hydra" / "overrides.yaml").write_text(overrides)
    return folder


def test_resume_takes_the_overrides_of_the_run_and_new_ones_win(tmp_path):
    overrides = "- data=mini\n- ckpt_path=old\n- trainer.max_epochs=5\n- +x=1\n"
    run = make_run(tmp_path / "it's a run", overrides=overrides)
    quoted = str(run).replace("'", r"\'")
    assert resume_arguments([f"resume={run}", "trainer.max_epochs=9"]) == [
        "data=mini",
        "+x=1",
        f"ckpt_path='{quoted}/checkpoints/last.ckpt'",
        f"hydra.run.dir='{quoted}'",
        "trainer.max_epochs=9",
    ]
    assert resume_arguments(["seed=1"]) == ["seed=1"]
    (run / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(ConfigError, match="no finished epoch to resume from"):
        resume_arguments([f"resume={run}"])


def test_resume_with_the_other_classifier(tmp_path):
    overrides = ["data=mini", "classifier=fast", "classifier.steps_per_execution=8"]
    run = make_run(tmp_path, overrides=f"{overrides}")
    assert not any(
        "fast" in argument or "steps" in argument
        for argument in resume_arguments([f"resume={run}", "classifier=plain"])
    )
    assert overrides[2] in resume_arguments([f"resume={run}"])


def test_names_of_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="outputs/runs holds no run"):
        find_run("latest")
    for time in ("2026-01-01/09-00-00.1", "2026-01-02/08-00-00.1", "2026-01-02/07-00-00.1"):
        (tmp_path / "outputs/runs" / time / ".hydra").mkdir(parents=True)
    latest = Path("outputs/runs/2026-01-02/08-00-00.1")
    assert find_run("latest") == latest
    assert find_run(str(latest)) == find_run(str(latest / "checkpoints" / "last.ckpt")) == latest


def test_finished_run_resumes_only_to_train_longer(tmp_path):
    make_run(tmp_path)
    (tmp_path / "result.json").write_text('{"status": "finished", "epochs": 5}')
    for arguments in ([], ["trainer.max_epochs=5"], ["seed=3"]):
        with pytest.raises(ConfigError, match=r"finished after 5 epochs; give a larger"):
            resume_arguments([f"resume={tmp_path}", *arguments])
    for longer in ("trainer.max_epochs=6", "++trainer.max_epochs=6"):
        assert longer in resume_arguments([f"resume={tmp_path}", longer])


def test_job_of_a_sweep_is_resumed_by_its_sweep(tmp_path):
    job = make_run(tmp_path / "3", mode="MULTIRUN")
    with pytest.raises(ConfigError) as caught:
        resume_arguments([f"resume={job}", "trainer.max_epochs=9"])
    message = str(caught.value)
    assert f"hydra.sweep.dir={tmp_path}," in message
    assert message.endswith(f"ckpt_path={job / 'checkpoints' / 'last.ckpt'}")
    assert "\n" not in message


def test_damaged_records_are_named(tmp_path):
    assert read_result(tmp_path) == {}
    assert read_metrics(tmp_path) == []
    for content in ("{", "[1]", "\xff"):
        (tmp_path / "result.json").write_text(content, encoding="latin-1")
        with pytest.raises(ConfigError, match=r"damaged run folder: result\.json"):
            read_result(tmp_path)
    (tmp_path / "metrics.csv").write_text("epoch,lr\n1,fast\n")
    with pytest.raises(ConfigError, match=r"metrics\.csv: damaged"):
        read_metrics(tmp_path)
    (tmp_path / "result.json").unlink()
    make_run(tmp_path, overrides="[1, 2]")
    with pytest.raises(ConfigError, match=r"damaged run folder: .* holds no list of overrides"):
        resume_arguments([f"resume={tmp_path}"])


def test_code_in_a_list_of_a_configuration_is_not_run(tmp_path):
    for target in ("os.mkdir", "pathlib.Path.mkdir", "pathlib.Path"):
        trap = {"_target_": target, "_args_": [str(tmp_path / "sprung")]}
        for hidden in ({"hidden": [1, trap]}, {"hidden": [[trap]]}, {"x": "${trap}"}):
            config = OmegaConf.create(
                {"model": {"_target_": "lenet_pl.models.mlp.MLP", **hidden}, "trap": [trap]}
            )
            with pytest.raises(ConfigError, match=rf"model\..*_target_={target}: "):
                instantiate(trusted(config, "model", torch.nn.Module))
    assert list(tmp_path.iterdir()) == []


def test_changed_data_is_refused(trained, tmp_path):
    run = open_run(str(trained))
    assert run.data().split_digest == run.result["data"]["split_digest"]
    run.config.data.split_seed = 7
    with pytest.raises(DataError, match=r"differs from the run's \(split_digest\): mini in data"):
        run.data()


def test_checkpoint_holds_what_resuming_compares(checkpoint):
    state = torch.load(checkpoint, weights_only=True)
    assert state["settings"]["optimizer.lr"] == 0.05
    assert state["settings"]["model"] == "LeNet"
    assert "steps" not in state["settings"]  # a constant learning rate has no end
    assert f"data.batch_size={state['settings']['data.batch_size']}" in FAST
