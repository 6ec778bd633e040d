"""Augmentation: exact on small images, drawn for each image, of training images only."""

import csv
import math
from pathlib import Path

import pytest
import torch
from helpers.runs import FAST
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lenet_pl.config import check
from lenet_pl.data.augment import Affine, Elastic, Erasing, Flip, Noise, affine
from lenet_pl.data.mnist import Mini
from lenet_pl.errors import ConfigError
from lenet_pl.training import build, train

ALL = {
    "affine": Affine(degrees=10, translate=0.08, scale=0.1, shear=8),
    "elastic": Elastic(alpha=34, sigma=4),
    "erasing": Erasing(probability=1, area=(0.02, 0.4), aspect=(0.3, 3.33)),
    "noise": Noise(std=0.1),
    "flip": Flip(probability=0.5),
}
BOTH = "augment=[affine,noise]"
SHORT = ["trainer.limit_train_batches=10", "trainer.limit_val_batches=1"]


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def random_images(count: int, height: int = 28, width: int = 28) -> Tensor:
    return torch.rand(count, 1, height, width, generator=generator(9))


def transform(images: Tensor, degrees=0.0, factor=1.0, shear=0.0, right=0.0, down=0.0) -> Tensor:
    amounts = (degrees, factor, shear, right, down)
    return affine(images, *(torch.full((len(images),), float(amount)) for amount in amounts))


def near(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return a.shape == b.shape and (a - b).abs().max().item() < tolerance


@pytest.mark.parametrize(("height", "width"), [(28, 28), (20, 32)])
def test_amounts_of_zero_change_nothing(height, width):
    images = random_images(3, height, width)
    assert near(transform(images), images)
    assert near(Affine(0, 0, 0, 0)(images, generator()), images)
    assert near(Elastic(0, 4)(images, generator()), images)
    assert torch.equal(Noise(0)(images, generator()), images)
    assert torch.equal(Flip(0)(images, generator()), images)
    assert torch.equal(Erasing(0, (0.02, 0.4), (0.3, 3.3))(images, generator()), images)


def test_flip_mirrors_left_to_right():
    images = random_images(64)
    assert torch.equal(Flip(1)(images, generator()), images.flip(3))
    unchanged = (Flip(0.25)(images, generator()) == images).all((1, 2, 3))
    assert 0.6 < unchanged.double().mean() < 0.9


def test_rotation_by_quarters_is_rot90():
    images = random_images(3)
    for quarters in (-1, 1, 2):
        assert near(transform(images, degrees=90 * quarters), torch.rot90(images, quarters, (2, 3)))


def test_shifts_by_whole_pixels_fill_with_zeros():
    images = random_images(3, 20, 32)
    shifted = torch.zeros_like(images)
    shifted[:, :, 2:, :-3] = images[:, :, :-2, 3:]
    assert near(transform(images, right=-3 / 32, down=2 / 20), shifted)


def test_the_shift_comes_after_rotation_scaling_and_shear():
    image = torch.zeros(1, 1, 29, 29)
    image[..., 14, 14] = 1  # the centre moves by the shift only
    result = transform(image, degrees=37, factor=1.5, shear=20, right=5 / 29, down=-4 / 29)
    assert divmod(result.argmax().item(), 29) == (10, 19)


def test_the_scale_is_that_of_the_sides():
    image = torch.zeros(1, 1, 28, 28)
    image[..., 10:18, 10:18] = 1
    assert transform(image, factor=2).sum() == pytest.approx(4 * 64)
    assert transform(image, factor=0.5).sum() == pytest.approx(64 / 4)


def test_shear_slants_the_top_to_the_right():
    image = torch.zeros(1, 1, 29, 29)
    image[..., 14] = 1  # an upright stroke
    slanted = transform(image, shear=math.degrees(math.atan(0.5)))[0, 0]
    columns = (slanted * torch.arange(29)).sum(1) / slanted.sum(1)
    assert near(columns, 14 + 0.5 * (14 - torch.arange(29.0)), 1e-4)  # 7 pixels at the top


def test_rotation_of_an_oblong_image_preserves_angles():
    image = torch.zeros(1, 1, 21, 41)
    image[..., 10, 10:31] = 1  # a horizontal stroke of 21
    upright = torch.zeros_like(image)
    upright[..., :, 20] = 1
    assert near(transform(image, degrees=90), upright)


def test_amounts_are_uniform_and_independent_in_their_range(monkeypatch):
    drawn = {}

    def record(images, *amounts):
        drawn.update(zip(("degrees", "factor", "shear", "right", "down"), amounts, strict=True))
        return images

    monkeypatch.setattr("lenet_pl.data.augment.affine", record)
    Affine(10, 0.08, 0.1, 8)(torch.zeros(4000, 1, 1, 1), generator())
    limits = {"degrees": 10, "factor": 0.1, "shear": 8, "right": 0.08, "down": 0.08}
    for name, limit in limits.items():
        amounts = drawn[name] - int(name == "factor")
        assert amounts.abs().max() <= limit * 1.0001
        assert amounts.min() < -0.99 * limit
        assert amounts.max() > 0.99 * limit
        assert amounts.mean().item() == pytest.approx(0, abs=0.04 * limit)
    table = torch.stack(list(drawn.values()))
    assert torch.corrcoef(table).fill_diagonal_(0).abs().max() < 0.06


def test_noise_has_its_mean_and_standard_deviation():
    grey = torch.full((64, 1, 28, 28), 0.5)
    noise = Noise(0.1)(grey, generator()) - grey
    assert noise.mean().item() == pytest.approx(0, abs=0.002)
    assert noise.std().item() == pytest.approx(0.1, rel=0.02)


def test_an_erased_rectangle_is_in_the_ranges_of_area_and_aspect():
    images = torch.full((2000, 1, 28, 28), 2.0)  # no random pixel is 2
    erased = Erasing(1, (0.1, 0.3), (0.5, 2))(images, generator())[:, 0] != 2
    rows, columns = erased.any(2).sum(1), erased.any(1).sum(1)
    area = erased.sum((1, 2))
    assert torch.equal(area, rows * columns)  # one rectangle each, without holes
    # sides are rounded to whole pixels
    smallest, largest = 0.1 * 784, 0.3 * 784
    half = (rows + columns) / 2
    assert (area >= smallest - half).all()
    assert (area <= largest + half).all()
    assert area.min() < 1.1 * smallest
    assert area.max() > 0.95 * largest
    assert ((rows + 0.5) / (columns - 0.5) >= 0.5).all()
    assert ((rows - 0.5) / (columns + 0.5) <= 2).all()
    assert (rows > columns).float().mean().item() == pytest.approx(0.5, abs=0.08)
    assert erased.any(0).all()  # everywhere, corners included


def test_erasing_changes_a_proportion_of_the_images_with_random_pixels():
    images = torch.full((4000, 1, 28, 28), 2.0)
    erased = Erasing(0.25, (0.1, 0.3), (0.5, 2))(images, generator())
    chosen = (erased != 2).flatten(1).any(1)
    assert chosen.float().mean().item() == pytest.approx(0.25, abs=0.02)
    pixels = erased[erased != 2]
    assert pixels.mean().item() == pytest.approx(0.5, abs=0.005)
    assert pixels.std().item() == pytest.approx(12**-0.5, abs=0.005)
    assert (pixels.min(), pixels.max()) == (0, 1)


def test_elastic_displacements_have_their_size_and_smoothness():
    # on a ramp of 1/100 per pixel along x, the change in value is the displacement
    ramp = (torch.arange(100.0) / 100).expand(200, 1, 100, 100)
    field = 100 * (Elastic(alpha=34, sigma=4)(ramp, generator()) - ramp)[..., 20:80, 20:80]
    assert field.square().mean().sqrt().item() == pytest.approx(0.163 * 34 / 4, rel=0.05)
    # the correlation of smoothed white noise at a distance d is exp(-d² / 4σ²)
    for distance in (4, 8):
        products = field[..., distance:] * field[..., :-distance]
        correlation = products.mean() / field.square().mean()
        expected = math.exp(-(distance**2) / (4 * 4**2))
        assert correlation.item() == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("name", ALL)
def test_every_augmentation(name):
    augmentation, digit = ALL[name], Mini().load().train.images[:1] / 255
    copies = digit.repeat(32, 1, 1, 1)
    before = copies.clone()
    result = augmentation(copies, generator(3))
    assert torch.equal(copies, before)
    assert result.shape == copies.shape
    assert result.dtype == copies.dtype
    assert result.min() >= 0
    assert result.max() <= 1
    different = {image.numpy().tobytes() for image in result}
    assert len(different) == (2 if name == "flip" else 32)  # a draw for each
    assert torch.equal(augmentation(copies, generator(3)), result)
    assert not torch.equal(augmentation(copies, generator(4)), result)
    colours = augmentation(random_images(4).expand(4, 3, 28, 28).double(), generator())
    assert colours.shape == (4, 3, 28, 28)
    assert colours.dtype == torch.double


class Operations(TorchDispatchMode):
    """Records the operations that are dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ALL)
def test_no_loop_over_images_and_no_synchronisation(name):
    counts = []
    for size in (2, 64):
        ALL[name](random_images(size), generator())  # fills the caches
        with Operations() as operations:
            ALL[name](random_images(size), generator())
        counts.append(len(operations.names))
        slow = ("_local_scalar_dense", "nonzero", "_to_copy", "lift_fresh", "masked_select")
        # one _to_copy is allowed: a change of type, on the device
        waits = [x for x in operations.names if any(word in x for word in slow)]
        assert len(waits) <= 1, waits
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("affine.degrees=181", "must be a number from 0 to 180"),
        ("affine.translate=-0.1", "must be a number from 0 to 1"),
        ("affine.scale=1", "must be a number from 0 to 0.9"),
        ("affine.shear=nan", "must be a number from 0 to 80"),
        ("noise.std=much", "must be a number from 0 to 1"),
        ("elastic.sigma=0", "must be a number from 0.1 to 100"),
        ("erasing.probability=true", "must be a number from 0 to 1"),
        ("erasing.area=[0.4,0.02]", "must be two numbers in ascending order, from 0.001 to 1"),
        ("erasing.area=0.4", "must be two numbers"),
        ("erasing.aspect=[a,b]", "must be two numbers"),
    ],
)
def test_an_invalid_value_is_reported_with_its_key(composed, override, message):
    cfg = composed("augment=[affine,elastic,erasing,noise]", f"augment.{override}")
    key = override.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"^augment\.{key}=.*: {message}"):
        check(cfg)


def test_a_rectangle_must_fit():
    with pytest.raises(ValueError, match=r"no rectangle of 0.9 of a square image"):
        Erasing(1, (0.1, 0.9), (3, 4))


def test_only_training_images_are_augmented(composed):
    overrides = ["logger=none", "callbacks=none", "trainer.max_epochs=2"]
    cfg = composed("data=mini", "data.batch_size=250", BOTH, *overrides)
    Path(cfg.run_dir).mkdir()
    trainer, classifier, data, *_ = build(cfg)
    inputs: dict[str, list[Tensor]] = {"training": [], "validation": [], "test": []}
    for stage, images in inputs.items():
        step = getattr(classifier, f"{stage}_step")

        def record(batch, batch_idx, step=step, images=images):
            images.append(batch[0])
            return step(batch, batch_idx)

        setattr(classifier, f"{stage}_step", record)
    before = {name: split.images.clone() for name, split in data.splits.items()}
    trainer.fit(classifier, data)
    trainer.test(classifier, data, verbose=False)
    for stage, name, times in (("validation", "val", 2), ("test", "test", 1)):
        assert torch.equal(torch.cat(inputs[stage]), before[name].repeat(times, 1, 1, 1))
    for name, split in data.splits.items():
        assert torch.equal(split.images, before[name])
    augmented = torch.cat(inputs["training"])
    assert augmented.shape == (10_000, 1, 28, 28)
    assert augmented.dtype == torch.float32
    originals = {image.numpy().tobytes() for image in before["train"] / 255}
    changed = [image.numpy().tobytes() for image in augmented]
    assert originals.isdisjoint(changed)
    assert len(set(changed)) == 10_000  # a new draw in the second epoch


def test_the_last_epochs_are_not_augmented(composed):
    overrides = ["data=mini", "data.batch_size=250", BOTH, "logger=none", "trainer.max_epochs=8"]
    trainer, _, data, *_ = build(composed(*overrides, "data.augment_until=0.75"))
    data.trainer = trainer
    loader = data.train_dataloader()
    for epoch in range(8):
        loader.batch_sampler.set_epoch(epoch)
        images, _ = next(iter(loader))
        indices = next(iter(loader.batch_sampler))
        unchanged = torch.equal(images, data.splits["train"].images[indices] / 255)
        assert unchanged == (epoch >= 6)
        assert images.dtype == torch.float32


def test_without_augmentation_images_are_bytes(composed):
    for overrides in (["augment=none"], ["augment=[]"], [BOTH, "trainer.overfit_batches=2"]):
        cfg = composed("data=mini", "logger=none", *overrides)
        trainer, _, data, *_ = build(cfg)
        data.trainer = trainer
        assert next(iter(data.train_dataloader()))[0].dtype == torch.uint8


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_a_resumed_or_logged_run_with_augmentation_is_the_same(composed, tmp_path):
    overrides = [*FAST, BOTH, *SHORT, "test=false", "callbacks.early_stopping=null"]
    logged, resumed, plain = (tmp_path / name for name in ("logged", "resumed", "plain"))
    train(composed(*overrides, "trainer.max_epochs=3", f"run_dir={logged}"))
    train(composed(*overrides, "trainer.max_epochs=3", f"run_dir={plain}", "logger=none"))
    train(composed(*overrides, "trainer.max_epochs=2", f"run_dir={resumed}", "logger=none"))
    torch.rand(7)  # other draws in the process do not matter
    last = f"ckpt_path={resumed / 'checkpoints' / 'last.ckpt'}"
    train(composed(*overrides, "trainer.max_epochs=3", f"run_dir={resumed}", "logger=none", last))
    assert len(rows(logged)) == 3
    for folder in (resumed, plain):
        assert rows(folder) == rows(logged)
        ours, theirs = (torch.load(f / "checkpoints/last.ckpt") for f in (folder, logged))
        for name, value in theirs["state_dict"].items():
            assert torch.equal(ours["state_dict"][name], value)

    events = EventAccumulator(str(logged), {"images": 0})
    events.Reload()
    assert len(events.Images("plots/training images")) == 1


def test_a_logger_does_not_touch_the_global_generator(composed):
    before, after = [], []
    for overrides in (["logger=none"], []):
        short = [*FAST, BOTH, *SHORT, "trainer.max_epochs=1", "callbacks=none"]
        cfg = composed(*short, *overrides)
        trainer, classifier, data, *_ = build(cfg)
        before.append(torch.get_rng_state())
        Path(cfg.run_dir).mkdir(exist_ok=True)
        trainer.fit(classifier, data)
        after.append(torch.get_rng_state())
    assert torch.equal(*before)
    assert torch.equal(*after)


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["augment=none"], []),
        (["augment=[]"], []),
        (["augment=affine"], ["affine"]),
        (["augment=[affine,noise]"], ["affine", "noise"]),
        (["augment=[noise,affine]", "augment.affine.degrees=15"], ["noise", "affine"]),
        (["experiment=affine"], ["affine"]),
        (["experiment=affine", "augment=[elastic,erasing]"], ["elastic", "erasing"]),
    ],
)
def test_augmentations_combine_in_the_order_given(composed, overrides, names):
    cfg = composed("data=mini", *overrides)
    assert list(cfg.augment) == list(cfg.data.augment) == names
    if "augment.affine.degrees=15" in overrides:
        assert cfg.data.augment.affine.degrees == 15
