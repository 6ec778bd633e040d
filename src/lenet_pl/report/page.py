"""A page that needs nothing but itself: pictures inside, no script, no request."""

from base64 import b64encode
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from torch import Tensor

from lenet_pl import files
from lenet_pl.console import percent
from lenet_pl.errors import ConfigError
from lenet_pl.plots import DPI, FINE

SUFFIX = ".report"  # of the event file that a report writes


def data_uri(png: bytes) -> str:
    """A PNG file as an address that holds it."""
    return "data:image/png;base64," + b64encode(png).decode()


def width(png: bytes) -> int:
    """Of a chart on the page, in its pixels."""
    return int.from_bytes(png[16:20]) * 100 // FINE


def thumbnail(image: Tensor) -> str:
    """An image ``uint8 [C, H, W]`` as a data URI, a pixel for a pixel; grey ones in black ink."""
    grey = image.shape[0] == 1
    pixels = (255 - image[0]) if grey else image.permute(1, 2, 0)
    file = BytesIO()
    Image.fromarray(pixels.numpy()).save(file, format="png", optimize=True)
    return data_uri(file.getvalue())


def render(template: str, context: dict[str, Any]) -> str:
    """The page; every word in it is escaped, class names included."""
    loader = PackageLoader("lenet_pl.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": percent, "uri": data_uri, "width": width}
    return environment.get_template(template).render(context)


def write(folder: Path, page: str, pictures: dict[str, bytes]) -> Path:
    """Write ``index.html`` and the pictures beside it; the page last, whole or not at all.

    Raises:
        ConfigError: if the folder cannot be written to.
    """
    path = folder / "index.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, png in pictures.items():
            files.write_bytes(folder / f"{name}.png", png)
        files.write_bytes(path, page.encode())
    except OSError as error:
        raise ConfigError(f"{folder}: cannot write there ({error.strerror})") from error
    return path


def add_to_dashboard(run: Path, pictures: dict[str, bytes], epoch: int) -> None:
    """Write pictures into the run's TensorBoard record, in the place of an earlier report's.

    They get a file of their own beside that of training, which is written anew each time. A run
    without a record gets none.

    Args:
        run: the run folder.
        pictures: PNG files by name.
        epoch: the step they belong to.
    """
    records = list(run.rglob("events.out.tfevents.*"))  # a job's are in a folder of their own
    training = [record for record in records if not record.name.endswith(SUFFIX)]
    if not training:
        return
    place = max(training, key=lambda record: record.stat().st_mtime).parent
    import numpy as np
    from torch.utils.tensorboard import SummaryWriter

    for old in set(records) - set(training):
        old.unlink()
    with SummaryWriter(str(place), filename_suffix=SUFFIX) as writer:
        for name, png in pictures.items():
            picture = Image.open(BytesIO(png)).convert("RGBA")
            paper = Image.new("RGBA", picture.size, "white")
            paper.alpha_composite(picture)
            small = paper.convert("RGB").resize([side * DPI // FINE for side in paper.size])
            writer.add_image(f"report/{name}", np.asarray(small), epoch, dataformats="HWC")
