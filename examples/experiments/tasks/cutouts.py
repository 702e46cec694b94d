"""A task of kinds of objects: cut-outs are pasted on photographs, so it is known where each object is.

The objects (Tux Paint's stamps) and the backgrounds (MATE's) of the test images are in no training image. The
images are composites, not natural photographs.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from abn.images import read_image
from experiments.tasks.images import Images, Task
from experiments.tasks.photographs import BACKGROUNDS, PLAIN, STAMPS, check_packages, pasted

KINDS = {
    "bird": ("animals/birds",),
    "mammal": ("animals/mammals",),
    "fish": ("animals/fish",),
    "insect": ("animals/insects",),
    "fruit": ("food/fruit",),
    "vegetable": ("food/vegetables",),
    "flower": ("plants/flowers",),
    "tool": ("household/tools",),
    "planet": ("space/moon", "space/planets"),
    "vehicle": ("vehicles", "military/vehicles"),
    "instrument": ("hobbies/music",),
}
"""Folders of each kind; their subfolders count too. Drawings and toys are left out."""
NOT_PHOTOGRAPHS = {"cartoon", "toys", "plastic"}
TEST_SHARE = 0.3  # of the names of each kind's objects
TEST_BACKGROUNDS = ("Dune", "Storm")
PLACES = 8  # number of places at which each object is pasted


def cutouts(size: int) -> Task:
    """Makes the task, with images of ``size`` × ``size`` pixels."""
    draw = random.Random(0)
    train, test = split_objects(KINDS, draw)
    others = [name for name in PLAIN if name not in TEST_BACKGROUNDS]
    return Task(
        "cutouts",
        list(KINDS),
        composites_of(train, lambda label: draw.choice(others), PLACES, size, draw),
        composites_of(test, lambda label: draw.choice(TEST_BACKGROUNDS), PLACES, size, draw),
        (-1,),
    )


def split_objects(
    kinds: Mapping[str, Sequence[str]], draw: random.Random
) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]]]:
    """Finds the cut-outs of these kinds, with the numbers of the kinds, and splits them into two parts."""
    check_packages()
    train, test = [], []
    for label, folders in enumerate(kinds.values()):
        files = sorted(file for folder in folders for file in (STAMPS / folder).rglob("*.png"))
        for_training, for_test = split([file for file in files if is_photograph(file)], draw)
        train += [(file, label) for file in for_training]
        test += [(file, label) for file in for_test]
    return train, test


def is_photograph(file: Path) -> bool:
    """Whether the file is a photograph, and not the mirror image of another."""
    return not NOT_PHOTOGRAPHS.intersection(file.parts) and not file.stem.endswith("_mirror")


def split(files: Sequence[Path], draw: random.Random) -> tuple[list[Path], list[Path]]:
    """Splits files for training and testing. Names that begin alike (gnu-baby, gnu-sitting) stay together."""
    names = sorted({re.split("[-_]", file.stem)[0] for file in files})
    held_out = set(draw.sample(names, round(TEST_SHARE * len(names))))
    parts: tuple[list[Path], list[Path]] = ([], [])
    for file in files:
        parts[re.split("[-_]", file.stem)[0] in held_out].append(file)
    return parts


def composites_of(
    objects: Sequence[tuple[Path, int]],
    choose_background: Callable[[int], str],
    places: int,
    size: int,
    draw: random.Random,
) -> Images:
    """Pastes each object at several random places.

    Args:
        objects: Files of cut-outs, with their labels.
        choose_background: Takes a label and returns the name of a background.
        places: Number of images of each object.
        size: Height and width of the images.
        draw: Source of random numbers.
    """
    photographs = {name: read_image(BACKGROUNDS / f"{name}.jpg") for name in PLAIN}
    pixels, labels, masks = [], [], []
    for file, label in objects:
        with Image.open(file) as opened:
            cutout = opened.convert("RGBA")
        for _ in range(places):
            scene = pasted(cutout, photographs[choose_background(label)], [label], draw)
            image = scene.image.resize((size, size), Image.Resampling.LANCZOS)
            pixels.append(transforms.pil_to_tensor(image))
            mask = Image.fromarray(scene.mask.numpy()).resize((size, size), Image.Resampling.NEAREST)
            masks.append(transforms.pil_to_tensor(mask)[0] > 0)
            labels.append(label)
    return Images(torch.stack(pixels), torch.tensor(labels), torch.stack(masks))
