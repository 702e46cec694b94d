"""Masks of objects from which an edit can start: pictures in a folder, or a file in COCO's format."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from pycocotools import mask as coco
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

from abn.images import files_in, is_image
from abn.preprocessing import LONGEST, Preprocessing


class PictureMasks:
    """Masks as pictures, named like their images up to the ending. See :func:`find_masks`."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        pictures = [path for path in files_in(folder) if is_image(path)]
        files = {_stem(path.relative_to(folder).as_posix()): path for path in pictures}
        self._files = {name: files[_stem(name)] for name in names if _stem(name) in files}

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str) -> Image.Image:
        """Returns the mask of an image in the mode ``"L"``: 255 on the object, 0 outside.

        Raises:
            OSError: If the picture cannot be read.
            ValueError: If it is not white on the object.
        """
        path = self._files[name]
        try:
            with Image.open(path) as picture:
                mask = ImageOps.exif_transpose(picture).convert("RGBA")
        except Exception as error:  # a decoder may fail in any way
            raise OSError(f"the mask {path} cannot be read: {error}") from error
        pixels = np.asarray(Image.alpha_composite(Image.new("RGBA", mask.size, "black"), mask))[..., :3]
        if np.ptp(pixels, axis=2).max() > _TOLERANCE or picture.mode == "P":
            return Image.fromarray(pixels.any(axis=2) * np.uint8(255))  # a colour for each object
        values = pixels[..., 0]
        if values.max() == 1:
            values = values * np.uint8(255)
        if 0 < values.max() < 255 - _TOLERANCE:
            raise ValueError(
                f"the mask {path} has values up to {values.max()}, expected 255, white, on the object; or 1"
            )
        return Image.fromarray(values)


_TOLERANCE = 16
"""Difference of pixel values that lossy compression may make."""


class CocoMasks:
    """Masks of the segmentations in a file in COCO's format. See :func:`find_masks`."""

    def __init__(self, file: Path, names: Sequence[str]) -> None:
        try:
            content = json.loads(file.read_bytes())
            images = {entry["id"]: entry for entry in content["images"]}
            known = {number: str(entry["file_name"]).replace("\\", "/") for number, entry in images.items()}
            annotations = [each for each in content["annotations"] if each.get("segmentation")]
            of_file: dict[str, list[Any]] = defaultdict(list)
            for each in annotations:
                of_file[known[each["image_id"]]].append((images[each["image_id"]], each["segmentation"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{file} is not in COCO's format: {error!r}") from error
        self._objects: Mapping[str, Any] = _matched(of_file, names)

    def __len__(self) -> int:
        return len(self._objects)

    def __contains__(self, name: str) -> bool:
        return name in self._objects

    def read(self, name: str) -> Image.Image:
        """Returns the union of the objects of an image, as :meth:`PictureMasks.read` does.

        Raises:
            ValueError: If a segmentation is unsound.
        """
        try:
            encoded = [
                _encoded(segmentation, entry["height"], entry["width"])
                for entry, segmentation in self._objects[name]
            ]
            union = coco.decode(coco.merge(encoded))
        except Exception as error:  # pycocotools may fail in any way on unsound segmentations
            raise ValueError(f"the segmentations of {name} cannot be read: {error!r}") from error
        return Image.fromarray(union * np.uint8(255))


Masks = PictureMasks | CocoMasks


def find_masks(source: Path, names: Sequence[str]) -> Masks:
    """Finds masks of images in a folder, or in a file in COCO's format.

    Args:
        source: A folder of pictures, named like the images up to the ending: ``cat/1.png`` belongs to
            ``cat/1.jpg``. They are white on the object; or have a colour for each object, on black; or hold
            ones on the object. Or a ``.json`` file of annotations with segmentations, as COCO, CVAT and Label
            Studio write it. All objects of an image make one mask.
        names: Names of the images.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If the file is not in COCO's format, or no image has a mask.
    """
    masks: Masks
    if source.is_dir():
        masks = PictureMasks(source, names)
    elif source.is_file():
        masks = CocoMasks(source, names)
    else:
        raise FileNotFoundError(f"there is no folder and no file {source}, expected masks")
    if not masks:
        raise ValueError(
            f"{source} has no mask of any of {len(names)} images, such as {names[0]}: are they named alike?"
        )
    return masks


def to_map(
    mask: Image.Image, size: tuple[int, int], preprocessing: Preprocessing, grid: tuple[int, int]
) -> Tensor:
    """Turns the mask of an image into a map over the part of the image that the network sees.

    Args:
        mask: Mask in the mode ``"L"``, of any resolution.
        size: Width and height of the image.
        preprocessing: Preparation of the images for the network.
        grid: Height and width of the map.

    Returns:
        The share of the object in each pixel of the map, (1, h, w), in [0, 1].

    Raises:
        ValueError: If the mask has other proportions than the image.
    """
    across, down = (side / length for side, length in zip(mask.size, size, strict=True))
    if max(abs(mask.height - across * size[1]), abs(mask.width - down * size[0])) > 1:
        raise ValueError(
            f"the mask has {mask.width} × {mask.height} pixels, expected the proportions of the image, "
            f"{size[0]} × {size[1]}"
        )
    black_around = replace(preprocessing, mean=(0.0, 0.0, 0.0))
    seen = black_around.view(mask.resize(size, Image.Resampling.NEAREST))
    shares: Tensor = F.adaptive_avg_pool2d(transforms.pil_to_tensor(seen)[:1] / 255, grid)
    return shares


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _matched(of_file: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Finds the entry of each image by its name, or by its name without folders if that is the only one."""
    bare = {file.rpartition("/")[2]: file for file in of_file}
    files = Counter(file.rpartition("/")[2] for file in of_file)
    images = Counter(name.rpartition("/")[2] for name in names)
    matched = {}
    for name in names:
        last = name.rpartition("/")[2]
        if name in of_file:
            matched[name] = of_file[name]
        elif files[last] == images[last] == 1:
            matched[name] = of_file[bare[last]]
    return matched


def _encoded(segmentation: Any, height: Any, width: Any) -> Any:
    """Encodes a segmentation as pycocotools does. Checks it first: pycocotools crashes on unsound numbers."""
    if not all(isinstance(side, int) and 0 < side <= LONGEST for side in (height, width)):
        raise ValueError(f"an image of {width} × {height} pixels, expected sides of 1 to {LONGEST}")
    if isinstance(segmentation, dict):
        counts, size = segmentation["counts"], segmentation["size"]
        if list(size) != [height, width]:
            raise ValueError(f"runs for {size}, expected {[height, width]}")
        if isinstance(counts, str):
            return {"counts": counts.encode(), "size": [height, width]}
        if min(counts) < 0 or sum(counts) != height * width:
            raise ValueError(f"runs of {sum(counts)} pixels, expected {height * width}")
        return coco.frPyObjects(segmentation, height, width)
    longest = 10 * max(height, width)  # a polygon may go beyond the image
    for polygon in segmentation:
        if len(polygon) < 6 or not all(math.isfinite(value) and abs(value) <= longest for value in polygon):
            raise ValueError("a polygon of fewer than three points, or far outside the image")
    return coco.merge(coco.frPyObjects(segmentation, height, width))
