"""Augmentation: exact on tiny things, drawn anew for every image, and only for training."""

import csv
import math
from pathlib import Path

import pytest
import torch
from helpers.runs import FAST
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lenet_pl.data.augment import Affine, Elastic, Erasing, Noise, affine
from lenet_pl.data.batches import BatchSampler
from lenet_pl.data.loader import AugmentedLoader
from lenet_pl.data.mnist import ImageDataset, Mini
from lenet_pl.errors import ConfigError
from lenet_pl.training import build, train

ALL = {
    "affine": Affine(degrees=10, translate=0.08, scale=0.1, shear=8),
    "elastic": Elastic(alpha=34, sigma=4),
    "erasing": Erasing(probability=1, area=(0.02, 0.4), aspect=(0.3, 3.33)),
    "noise": Noise(std=0.1),
}
BOTH = "augment=[affine,noise]"
SHORT = ["trainer.limit_train_batches=10", "trainer.limit_val_batches=1"]


def draws(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def random_images(count: int, height: int = 28, width: int = 28) -> Tensor:
    return torch.rand(count, 1, height, width, generator=draws(9))


def moved(images: Tensor, degrees=0.0, factor=1.0, shear=0.0, right=0.0, down=0.0) -> Tensor:
    amounts = (degrees, factor, shear, right, down)
    return affine(images, *(torch.full((len(images),), float(amount)) for amount in amounts))


def near(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return a.shape == b.shape and (a - b).abs().max().item() < tolerance


@pytest.mark.parametrize("height, width", [(28, 28), (20, 32)])
def test_what_changes_nothing(height, width):
    images = random_images(3, height, width)
    assert near(moved(images), images)
    assert near(Affine(0, 0, 0, 0)(images, draws()), images)
    assert near(Elastic(0, 4)(images, draws()), images)
    assert torch.equal(Noise(0)(images, draws()), images)
    assert torch.equal(Erasing(0, (0.02, 0.4), (0.3, 3.3))(images, draws()), images)


def test_quarter_turns_are_rot90():
    images = random_images(3)
    for quarters in (-1, 1, 2):
        assert near(moved(images, degrees=90 * quarters), torch.rot90(images, quarters, (2, 3)))


def test_whole_shifts_are_rolls_with_nothing_coming_in():
    images = random_images(3, 20, 32)
    shifted = torch.zeros_like(images)
    shifted[:, :, 2:, :-3] = images[:, :, :-2, 3:]
    assert near(moved(images, right=-3 / 32, down=2 / 20), shifted)


def test_a_shift_comes_after_turning_and_sizing():
    image = torch.zeros(1, 1, 29, 29)
    image[..., 14, 14] = 1  # the centre stays where it is but for the shift
    found = moved(image, degrees=37, factor=1.5, shear=20, right=5 / 29, down=-4 / 29)
    assert divmod(found.argmax().item(), 29) == (10, 19)


def test_twice_as_large_is_what_it_says():
    image = torch.zeros(1, 1, 28, 28)
    image[..., 10:18, 10:18] = 1
    assert moved(image, factor=2).sum() == pytest.approx(4 * 64)
    assert moved(image, factor=0.5).sum() == pytest.approx(64 / 4)


def test_shear_leans_the_top_to_the_right():
    image = torch.zeros(1, 1, 29, 29)
    image[..., 14] = 1  # an upright stroke
    leant = moved(image, shear=math.degrees(math.atan(0.5)))[0, 0]
    columns = (leant * torch.arange(29)).sum(1) / leant.sum(1)
    assert near(columns, 14 + 0.5 * (14 - torch.arange(29.0)), 1e-4)  # 7 pixels at the top


def test_turning_an_oblong_image_keeps_angles():
    image = torch.zeros(1, 1, 21, 41)
    image[..., 10, 10:31] = 1  # a level stroke of 21
    upright = torch.zeros_like(image)
    upright[..., :, 20] = 1
    assert near(moved(image, degrees=90), upright)


def test_amounts_stay_within_their_range_and_reach_it(monkeypatch):
    seen = {}

    def spy(images, *amounts):
        seen.update(zip(("degrees", "factor", "shear", "right", "down"), amounts, strict=True))
        return images

    monkeypatch.setattr("lenet_pl.data.augment.affine", spy)
    Affine(10, 0.08, 0.1, 8)(torch.zeros(4000, 1, 1, 1), draws())
    limits = {"degrees": 10, "factor": 0.1, "shear": 8, "right": 0.08, "down": 0.08}
    for name, limit in limits.items():
        amounts = seen[name] - int(name == "factor")
        assert amounts.abs().max() <= limit * 1.0001
        assert amounts.min() < -0.99 * limit and amounts.max() > 0.99 * limit
        assert amounts.mean().item() == pytest.approx(0, abs=0.04 * limit)
    table = torch.stack(list(seen.values()))
    assert torch.corrcoef(table).fill_diagonal_(0).abs().max() < 0.06  # each drawn by itself


def test_noise_has_its_mean_and_deviation():
    grey = torch.full((64, 1, 28, 28), 0.5)
    noise = Noise(0.1)(grey, draws()) - grey
    assert noise.mean().item() == pytest.approx(0, abs=0.002)
    assert noise.std().item() == pytest.approx(0.1, rel=0.02)


def test_erased_is_a_rectangle_within_the_ranges():
    images = torch.full((2000, 1, 28, 28), 2.0)  # no random pixel is 2
    erased = Erasing(1, (0.1, 0.3), (0.5, 2))(images, draws())[:, 0] != 2
    rows, columns = erased.any(2).sum(1), erased.any(1).sum(1)
    area = erased.sum((1, 2))
    assert torch.equal(area, rows * columns)  # one rectangle each, without holes
    # sides are rounded to whole pixels
    smallest, largest = 0.1 * 784, 0.3 * 784
    half = (rows + columns) / 2
    assert (area >= smallest - half).all() and (area <= largest + half).all()
    assert area.min() < 1.1 * smallest and area.max() > 0.95 * largest
    assert ((rows + 0.5) / (columns - 0.5) >= 0.5).all()
    assert ((rows - 0.5) / (columns + 0.5) <= 2).all()
    assert (rows > columns).float().mean().item() == pytest.approx(0.5, abs=0.08)
    assert erased.any(0).all()  # everywhere, the corners too


def test_erasing_chooses_its_share_and_fills_with_random_pixels():
    images = torch.full((4000, 1, 28, 28), 2.0)
    found = Erasing(0.25, (0.1, 0.3), (0.5, 2))(images, draws())
    chosen = (found != 2).flatten(1).any(1)
    assert chosen.float().mean().item() == pytest.approx(0.25, abs=0.02)
    pixels = found[found != 2]
    assert pixels.mean().item() == pytest.approx(0.5, abs=0.005)
    assert pixels.std().item() == pytest.approx(12**-0.5, abs=0.005)
    assert (pixels.min(), pixels.max()) == (0, 1)


def test_elastic_moves_as_far_and_as_smoothly_as_it_says():
    # of an image that rises along x by 1/100 a pixel, the change is the field
    ramp = (torch.arange(100.0) / 100).expand(200, 1, 100, 100)
    field = 100 * (Elastic(alpha=34, sigma=4)(ramp, draws()) - ramp)[..., 20:80, 20:80]
    assert field.square().mean().sqrt().item() == pytest.approx(0.163 * 34 / 4, rel=0.05)
    # white noise behind a Gaussian: correlation exp(-d² / 4σ²) at a distance of d
    for distance in (4, 8):
        together = (field[..., distance:] * field[..., :-distance]).mean() / field.square().mean()
        expected = math.exp(-(distance**2) / (4 * 4**2))
        assert together.item() == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("name", ALL)
def test_every_augmentation(name):
    change, digit = ALL[name], Mini().load().train.images[:1] / 255
    copies = digit.repeat(32, 1, 1, 1)
    before = copies.clone()
    found = change(copies, draws(3))
    assert torch.equal(copies, before)
    assert found.shape == copies.shape and found.dtype == copies.dtype
    assert found.min() >= 0 and found.max() <= 1
    assert len({image.numpy().tobytes() for image in found}) == 32  # each by its own draw
    assert torch.equal(change(copies, draws(3)), found)
    assert not torch.equal(change(copies, draws(4)), found)
    colours = change(random_images(4).expand(4, 3, 28, 28).double(), draws())
    assert colours.shape == (4, 3, 28, 28) and colours.dtype == torch.double


class Calls(TorchDispatchMode):
    """Counts the operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ALL)
def test_no_loop_over_images_and_no_wait_for_the_device(name):
    counts = []
    for size in (2, 64):
        ALL[name](random_images(size), draws())  # what is kept between calls is there
        with Calls() as calls:
            ALL[name](random_images(size), draws())
        counts.append(len(calls.names))
        waiting = ("_local_scalar_dense", "nonzero", "_to_copy", "lift_fresh", "masked_select")
        # a change of type on the device is no wait, nor is there another copy
        waits = [x for x in calls.names if any(word in x for word in waiting)]
        assert len(waits) <= 1, waits
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Affine(181, 0, 0, 0), "degrees=181: must be a number from 0 to 180"),
        (lambda: Affine(0, -0.1, 0, 0), "translate=-0.1: must be a number from 0 to 1"),
        (lambda: Affine(0, 0, 1, 0), "scale=1: must be a number from 0 to 0.9"),
        (lambda: Affine(0, 0, 0, float("nan")), "shear=nan: must be a number"),
        (lambda: Noise("much"), "std=much: must be a number from 0 to 1"),
        (lambda: Elastic(34, 0), "sigma=0: must be a number from 0.1"),
        (lambda: Erasing(True, (0.1, 0.2), (1, 1)), "probability=True: must be"),
        (lambda: Erasing(1, (0.4, 0.02), (1, 1)), "area=.*: must be two numbers, rising"),
        (lambda: Erasing(1, 0.4, (1, 1)), "area=0.4: must be two numbers"),
        (lambda: Erasing(1, (0.1, 0.2), ("a", "b")), "aspect=.*: must be two numbers"),
        (lambda: Erasing(1, (0.1, 0.9), (3, 4)), "no rectangle of 0.9 of a square image"),
    ],
)
def test_ranges_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_refused_value_is_told_by_its_key(composed):
    cfg = composed("data=mini", BOTH, "augment.noise.std=2")
    with pytest.raises(ConfigError, match=r"^augment\.noise\.std=2: must be a number from 0 to 1$"):
        build(cfg)


def loader(
    shades: Tensor, epoch: int = 0, seed: int = 0, rank: int = 0, world: int = 1
) -> AugmentedLoader:
    """A thousand images of one shade each, with hardly any noise, labelled by their number."""
    images = shades.view(-1, 1, 1, 1).expand(1000, 1, 4, 4).to(torch.uint8)
    batches = BatchSampler(1000, 30, seed, rank, world)
    batches.set_epoch(epoch)
    split = ImageDataset(images, torch.arange(1000))
    return AugmentedLoader(split, batches, [Noise(0.001)], torch.device("cpu"), until=9)


def test_batches_are_those_without_augmentation():
    augmented = loader(torch.arange(1000) % 256)
    batches = list(augmented)
    assert len(batches) == len(augmented) == 34
    assert [len(labels) for _, labels in batches] == [30] * 33 + [10]
    expected = torch.cat(list(BatchSampler(1000, 30, 0)))
    assert torch.equal(torch.cat([labels for _, labels in batches]), expected)
    for images, labels in batches:
        assert images.dtype == torch.float32
        shade = images.mean((1, 2, 3)) * 255
        assert near(shade, (labels % 256).float(), 1)  # each image with its own label


def test_draws_depend_on_seed_epoch_and_process_and_on_nothing_else():
    grey = torch.tensor(128)  # so that two batches differ in their noise alone

    def first(**which) -> Tensor:
        return next(iter(loader(grey, **which)))[0]

    torch.manual_seed(1)
    state = torch.get_rng_state()
    expected = first()
    running = iter(loader(grey))
    second = [next(running), next(running)][1][0]
    assert torch.equal(first(), expected)
    assert torch.equal(torch.get_rng_state(), state)
    others = [second, first(epoch=1), first(seed=1), first(rank=1, world=2)]
    assert not any(torch.equal(other, expected) for other in others)


def test_only_training_images_are_augmented(composed):
    words = ["logger=none", "callbacks=none", "trainer.max_epochs=2"]
    cfg = composed("data=mini", "data.batch_size=250", BOTH, *words)
    Path(cfg.run_dir).mkdir()
    trainer, classifier, data, _, _ = build(cfg)
    seen: dict[str, list[Tensor]] = {"training": [], "validation": [], "test": []}
    for stage, images in seen.items():
        step = getattr(classifier, f"{stage}_step")

        def spy(batch, batch_idx, step=step, images=images):
            images.append(batch[0])
            return step(batch, batch_idx)

        setattr(classifier, f"{stage}_step", spy)
    before = {name: split.images.clone() for name, split in data.splits.items()}
    trainer.fit(classifier, data)
    trainer.test(classifier, data, verbose=False)
    for stage, name, times in (("validation", "val", 2), ("test", "test", 1)):
        assert torch.equal(torch.cat(seen[stage]), before[name].repeat(times, 1, 1, 1))
    for name, split in data.splits.items():
        assert torch.equal(split.images, before[name])
    shown = torch.cat(seen["training"])
    assert shown.shape == (10_000, 1, 28, 28) and shown.dtype == torch.float32
    originals = {image.numpy().tobytes() for image in before["train"] / 255}
    changed = [image.numpy().tobytes() for image in shown]
    assert originals.isdisjoint(changed)
    assert len(set(changed)) == 10_000  # another draw in the second epoch


def test_the_last_epochs_come_as_they_are(composed):
    words = ["data=mini", "data.batch_size=250", BOTH, "logger=none", "trainer.max_epochs=8"]
    trainer, _, data, _, _ = build(composed(*words, "data.augment_until=0.75"))
    data.trainer = trainer
    found = data.train_dataloader()
    for epoch in range(8):
        found.batch_sampler.set_epoch(epoch)
        images, _ = next(iter(found))
        index = next(iter(found.batch_sampler))
        same = torch.equal(images, data.splits["train"].images[index] / 255)
        assert same == (epoch >= 6) and images.dtype == torch.float32


def test_no_augmentation_no_work(composed):
    for words in (["augment=none"], ["augment=[]"], [BOTH, "trainer.overfit_batches=2"]):
        cfg = composed("data=mini", "logger=none", *words)
        trainer, _, data, _, _ = build(cfg)
        data.trainer = trainer
        found = data.train_dataloader()
        assert type(found) is torch.utils.data.DataLoader
        assert next(iter(found))[0].dtype == torch.uint8


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_resumed_or_watched_an_augmented_run_is_the_same(composed, tmp_path):
    words = [*FAST, BOTH, *SHORT, "test=false", "callbacks.early_stopping=null"]
    whole, parts, blind = (tmp_path / name for name in ("whole", "parts", "blind"))
    train(composed(*words, "trainer.max_epochs=3", f"run_dir={whole}"))
    train(composed(*words, "trainer.max_epochs=3", f"run_dir={blind}", "logger=none"))
    train(composed(*words, "trainer.max_epochs=2", f"run_dir={parts}", "logger=none"))
    torch.rand(7)  # what else draws in the process does not matter
    last = f"ckpt_path={parts / 'checkpoints' / 'last.ckpt'}"
    train(composed(*words, "trainer.max_epochs=3", f"run_dir={parts}", "logger=none", last))
    assert len(rows(whole)) == 3
    for folder in (parts, blind):
        assert rows(folder) == rows(whole)
        ours, theirs = (torch.load(f / "checkpoints/last.ckpt") for f in (folder, whole))
        for name, value in theirs["state_dict"].items():
            assert torch.equal(ours["state_dict"][name], value)

    events = EventAccumulator(str(whole), {"images": 0})
    events.Reload()
    assert len(events.Images("train/images")) == 1


def test_a_logger_leaves_the_global_generator_alone(composed):
    states = []
    for words in (["logger=none"], []):
        cfg = composed(*FAST, BOTH, *SHORT, "trainer.max_epochs=1", "callbacks=none", *words)
        trainer, classifier, data, _, _ = build(cfg)
        before = torch.get_rng_state()
        Path(cfg.run_dir).mkdir(exist_ok=True)
        trainer.fit(classifier, data)
        states += [before, torch.get_rng_state()]
    assert all(torch.equal(state, states[0]) for state in states)


@pytest.mark.parametrize(
    "words, names",
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
def test_augmentations_combine_in_the_order_given(composed, words, names):
    cfg = composed("data=mini", *words)
    assert list(cfg.augment) == list(cfg.data.augment) == names
    if "augment.affine.degrees=15" in words:
        assert cfg.data.augment.affine.degrees == 15
