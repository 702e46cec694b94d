"""Reading photographs: which files are images, and any image as RGB, in one way for all of the library."""

import contextlib
import functools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

UNREADABLE = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that PIL can tell, but reads with another program or not at all."""


def is_image(path: str | Path) -> bool:
    """Whether the file is named like an image that PIL reads here, and not hidden.

    That depends on what is installed: with ``pillow-heif`` it holds for ``.heic`` too.
    """
    path, formats = Path(path), _formats()
    return Image.registered_extensions().get(path.suffix.lower()) in formats and path.name[0] != "."


def files_in(folder: Path) -> list[Path]:
    """The files in a folder and the folders in it, but for hidden ones."""

    def is_hidden(path: Path) -> bool:
        return any(part.startswith(".") for part in path.relative_to(folder).parts)

    return [path for path in sorted(folder.rglob("*")) if path.is_file() and not is_hidden(path)]


def ignored(paths: Iterable[Path]) -> str:
    """A line on how many of these files are no images, and of which kinds; empty if all are images."""
    endings = Counter(path.suffix.lower() or "without an ending" for path in paths if not is_image(path))
    kinds = ", ".join(f"{count} {ending}" for ending, count in endings.most_common())
    count = endings.total()
    return f"{count} {'files are' if count > 1 else 'file is'} not read as images: {kinds}" if kinds else ""


def read_image(path: str | Path) -> Image.Image:
    """Opens a picture in any format that PIL reads as RGB, turned upright by its EXIF tag.

    Of pictures with several frames the first is taken. See :func:`as_rgb` for other depths than 8 bits.

    Raises:
        OSError: If the file is no whole picture, or its pixels are of unknown range.
    """
    try:
        with Image.open(path, formats=sorted(_formats())) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return as_rgb(image)
    except Exception as error:  # a decoder may fail in any way
        raise OSError(f"{path} cannot be read as an image: {str(error) or type(error).__name__}") from error


def as_rgb(image: Image.Image) -> Image.Image:
    """A PIL image as RGB, with 8 bits for each colour. Pixels of 16 bits are cut to the upper 8.

    Raises:
        TypeError: If it is something else than a PIL image.
        ValueError: If pixels are real numbers, or whole ones of 32 bits: which of them is white?
    """
    if not isinstance(image, Image.Image):
        raise TypeError(
            f"image is a {type(image).__name__}, expected a PIL image, such as of read_image(path) or "
            "Image.fromarray(array)"
        )
    if image.mode == "RGB":
        return image
    # PIL opens a PPM of 16 bits as one of 32, and before version 10.3 a PNG.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image) // 256).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        kind = "real numbers" if image.mode == "F" else "whole numbers of 32 bits"
        raise ValueError(
            f"pixels are {kind} of unknown range, expected 8 or 16 bits: scale them to 0..255, and make an "
            "image of these, Image.fromarray(pixels.astype('uint8'))"
        )
    return image.convert("RGB")


def _formats() -> set[str]:
    Image.init()
    _register_heif()
    return Image.OPEN.keys() - UNREADABLE


@functools.cache
def _register_heif() -> None:
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener  # the format of telephones, of which PIL knows nothing

        register_heif_opener()
