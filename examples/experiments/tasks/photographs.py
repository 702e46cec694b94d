"""Photographs from ordinary packages: nothing is downloaded while a script runs.

    pip install foolbox
    apt-get install tuxpaint-stamps-default mate-backgrounds

Twenty photographs of ImageNet with their classes (foolbox, MIT), and cut-out objects (Tux Paint's stamps,
GPL-2) pasted on backgrounds (MATE's, GPL-2+). Of the cut-outs it is known which pixels belong to the object.
"""

import importlib.util
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from abn.images import read_image
from abn.preprocessing import Preprocessing

STAMPS = Path("/usr/share/tuxpaint/stamps")
BACKGROUNDS = Path("/usr/share/backgrounds/mate/nature")
PLAIN = ("Aqua", "Blinds", "Dune", "GreenMeadow", "RainDrops", "Storm", "Wood")
"""Backgrounds without a second object."""
CLASSES_OF_STAMPS = Path(__file__).with_name("stamps.json")
"""File with the classes of ImageNet that count as right for each cut-out."""
CANVAS = 256  # side of a composite in pixels
SCALES = 0.5, 0.8  # least and most length of the object's longer side, in canvases
SMALL = 0.3, 0.45


@dataclass(frozen=True)
class Photograph:
    """An image, the classes that count as right, and where the object is, if that is known."""

    image: Image.Image
    classes: list[int]
    mask: Tensor | None = None
    """(H, W), bool."""


def photographs() -> list[Photograph]:
    """Loads twenty photographs of ImageNet."""
    found = importlib.util.find_spec("foolbox")  # not imported, since that takes long
    if found is None or found.origin is None:
        raise FileNotFoundError(
            "there is no package foolbox, whose photographs are needed: pip install foolbox"
        )
    files = sorted((Path(found.origin).parent / "data").glob("imagenet_*"))
    return [Photograph(read_image(file), [int(file.stem.split("_")[-1])]) for file in files]


def check_packages() -> None:
    """Raises a FileNotFoundError if the cut-outs or the backgrounds are not installed."""
    for folder, package in ((STAMPS, "tuxpaint-stamps-default"), (BACKGROUNDS, "mate-backgrounds")):
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder}: apt-get install {package}")


def composites(seed: int, scales: tuple[float, float] = SCALES) -> Iterator[Photograph]:
    """Pastes each cut-out once, at random on a background."""
    check_packages()
    draw = random.Random(seed)
    backgrounds = [read_image(BACKGROUNDS / f"{name}.jpg") for name in PLAIN]
    for stamp, classes in json.loads(CLASSES_OF_STAMPS.read_text(encoding="utf-8")).items():
        with Image.open(STAMPS / stamp) as file:
            cutout = file.convert("RGBA")
        yield pasted(cutout, draw.choice(backgrounds), classes, draw, scales)


def pasted(
    cutout: Image.Image,
    background: Image.Image,
    classes: list[int],
    draw: random.Random,
    scales: tuple[float, float] = SCALES,
) -> Photograph:
    """Pastes a cut-out at random on a random crop of a background."""
    cutout = cutout.crop(cutout.getchannel("A").getbbox())
    scale = draw.uniform(*scales) * CANVAS / max(cutout.size)
    width, height = (max(round(side * scale), 1) for side in cutout.size)
    cutout = cutout.resize((width, height), Image.Resampling.LANCZOS)
    side = draw.randint(CANVAS, min(background.size))
    left, top = (draw.randint(0, length - side) for length in background.size)
    crop = background.crop((left, top, left + side, top + side))
    canvas = crop.resize((CANVAS, CANVAS), Image.Resampling.LANCZOS)
    corner = draw.randint(0, CANVAS - width), draw.randint(0, CANVAS - height)
    canvas.paste(cutout, corner, cutout)
    alpha = Image.new("L", canvas.size)
    alpha.paste(cutout.getchannel("A"), corner)
    return Photograph(canvas, classes, transforms.pil_to_tensor(alpha)[0] > 127)


def prepared(photograph: Photograph, preprocessing: Preprocessing) -> tuple[Tensor, Tensor | None]:
    """Returns the image as a network gets it, (3, H, W), and the mask of the object in its pixels, (H, W)."""
    images = preprocessing(photograph.image)
    if photograph.mask is None:
        return images, None
    mask = Image.fromarray(photograph.mask.numpy())
    seen = preprocessing.view(mask).resize(preprocessing.size[::-1], Image.Resampling.NEAREST)
    return images, transforms.pil_to_tensor(seen)[0] > 0
