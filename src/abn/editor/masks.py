"""Masks of objects from which an edit can start: pictures in a folder, or a file in COCO's format."""

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

from abn.images import files_in, is_image
from abn.preprocessing import Preprocessing


class Masks(Protocol):
    """Masks by the names of their images, such as ``"cat/1.jpg"``."""

    def __contains__(self, name: str) -> bool: ...

    def read(self, name: str) -> Image.Image:
        """Returns the mask, in the mode ``"L"``: 0 outside the object, 255 on it.

        Raises:
            OSError, ValueError: If the mask cannot be read.
        """


def find_masks(source: Path) -> Masks:
    """Returns the masks in a folder, or in a file in COCO's format.

    Args:
        source: A folder of pictures, named like the images up to the ending: ``cat/1.png`` belongs to
            ``cat/1.jpg``. They are white on the object. In pictures with a palette, and in pictures of zeros
            and ones, 0 is the background. Or a ``.json`` file of annotations with segmentations, as COCO,
            CVAT and Label Studio write it. All objects of an image make one mask.

    Raises:
        FileNotFoundError: If there is no such file or folder, or the folder holds no picture.
        ValueError: If the file is not in COCO's format.
    """
    if source.is_dir():
        return FolderMasks(source)
    if source.is_file():
        return CocoMasks(source)
    raise FileNotFoundError(f"there is no folder and no file {source}, expected masks")


class FolderMasks:
    """Masks as pictures in a folder."""

    def __init__(self, folder: Path) -> None:
        pictures = [path for path in files_in(folder) if is_image(path)]
        self._files = {path.relative_to(folder).with_suffix("").as_posix(): path for path in pictures}
        if not self._files:
            raise FileNotFoundError(f"there is no picture in {folder}, expected masks")

    def __contains__(self, name: str) -> bool:
        return _stem(name) in self._files

    def read(self, name: str) -> Image.Image:
        path = self._files[_stem(name)]
        try:
            with Image.open(path) as picture:
                mask = ImageOps.exif_transpose(picture)
                values = np.asarray(mask if mask.mode == "P" else mask.convert("L"))
        except Exception as error:  # a decoder may fail in any way
            raise OSError(f"the mask {path} cannot be read: {error}") from error
        if mask.mode == "P" or values.max() <= 1:
            values = (values > 0) * np.uint8(255)
        return Image.fromarray(values)


class CocoMasks:
    """Masks of the segmentations in a file in COCO's format."""

    def __init__(self, file: Path) -> None:
        try:
            from pycocotools.coco import COCO
        except ImportError as error:
            raise ValueError("COCO's format is read by pycocotools: pip install pycocotools") from error
        self._coco = COCO()
        try:
            self._coco.dataset = json.loads(file.read_bytes())
            with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress
                self._coco.createIndex()
            known = {entry["file_name"]: number for number, entry in self._coco.imgs.items()}
            self._numbers: dict[str, Any] = {str(name): known[name] for name in known}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{file} is not in COCO's format: {error!r}") from error
        if not self._numbers:
            raise ValueError(f"{file} names no image, expected annotations in COCO's format")

    def __contains__(self, name: str) -> bool:
        return self._number(name) in self._coco.imgToAnns

    def read(self, name: str) -> Image.Image:
        number = self._number(name)
        try:
            masks = [self._coco.annToMask(annotation) for annotation in self._coco.imgToAnns[number]]
            union = np.bitwise_or.reduce(masks) > 0
        except Exception as error:  # pycocotools may fail in any way on unsound annotations
            raise ValueError(f"the segmentations of {name} cannot be read: {error!r}") from error
        return Image.fromarray(union * np.uint8(255))

    def _number(self, name: str) -> Any:
        """Returns the number of an image, which the file may name with its folder or without."""
        return self._numbers.get(name, self._numbers.get(name.rpartition("/")[2]))


def _stem(name: str) -> str:
    return Path(name).with_suffix("").as_posix()


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
    if abs(mask.width * size[1] - mask.height * size[0]) > max(*mask.size, *size):
        raise ValueError(
            f"the mask has {mask.width} × {mask.height} pixels, expected the proportions of the image, "
            f"{size[0]} × {size[1]}"
        )
    black_around = replace(preprocessing, mean=(0.0, 0.0, 0.0))
    seen = transforms.pil_to_tensor(black_around.view(mask))[:1] / 255
    shares: Tensor = F.adaptive_avg_pool2d(seen, grid)
    return shares
