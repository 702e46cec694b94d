"""Finds and reads images: tells which files are images, and reads any image as RGB, for all modules."""

import contextlib
import functools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

UNREADABLE = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that PIL recognises, but reads only with another program, or not at all."""


def is_image(path: str | Path) -> bool:
    """Whether the file has the ending of an image format that PIL can read, and is not hidden.

    The formats depend on what is installed: with ``pillow-heif``, ``.heic`` is one of them.
    """
    path, formats = Path(path), _formats()
    return Image.registered_extensions().get(path.suffix.lower()) in formats and path.name[0] != "."


def files_in(folder: Path, out: Path | None = None) -> list[Path]:
    """Returns the files in a folder and its subfolders, in order, but none that are hidden or in ``out``."""
    excluded = out.resolve() if out is not None and folder.resolve() in out.resolve().parents else None

    def is_hidden(path: Path) -> bool:
        return any(part.startswith(".") for part in path.relative_to(folder).parts)

    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not is_hidden(path)]
    return [path for path in files if excluded is None or excluded not in path.resolve().parents]


def image_paths(source: Path, out: Path) -> list[Path]:
    """Returns the source if it is a file, else the images in it, but none that are hidden or in ``out``.

    Raises:
        FileNotFoundError: If there is no image.
        ValueError: If ``out`` is the folder of the images, or the name of the image is no text.
    """
    if source.is_file():
        if not _is_text(source, source.parent):
            raise ValueError(f"the name {source.name!r} is no text: rename the file")
        return [source]
    if not source.is_dir():
        raise FileNotFoundError(f"there is no image and no folder {source}")
    if out.resolve() == source.resolve():
        raise ValueError(f"out is {out}, the folder of the images: take another")
    paths = [path for path in files_in(source, out) if is_image(path) and _is_text(path, source)]
    if not paths:
        raise FileNotFoundError(
            f"there is no image in {source}; {ignored(files_in(source, out))}".rstrip("; ")
        )
    return paths


def ignored(paths: Iterable[Path]) -> str:
    """Tells in one line how many files are no images, and of which kinds. Empty if all files are images."""
    endings = Counter(path.suffix.lower() or "without an ending" for path in paths if not is_image(path))
    kinds = ", ".join(f"{count} {ending}" for ending, count in endings.most_common())
    count = endings.total()
    return f"{count} {'files are' if count > 1 else 'file is'} not read as images: {kinds}" if kinds else ""


def read_image(path: str | Path) -> Image.Image:
    """Opens an image in any format that PIL reads, as RGB, and turns it upright by its EXIF tag.

    Of several frames, only the first is read. See :func:`as_rgb` for other depths than 8 bits.

    Raises:
        OSError: If the file is not a complete image, or the range of its pixels is unknown.
    """
    try:
        with Image.open(path, formats=sorted(_formats())) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return as_rgb(image)
    except Exception as error:  # a decoder may fail in any way
        raise OSError(f"{path} cannot be read as an image: {str(error) or type(error).__name__}") from error


def as_rgb(image: Image.Image) -> Image.Image:
    """Converts a PIL image to RGB, with 8 bits for each colour. Pixels of 16 bits keep their upper 8.

    Raises:
        TypeError: If ``image`` is not a PIL image.
        ValueError: If pixels are real numbers, or whole numbers of 32 bits: their range is unknown.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(
            f"image is a {type(image).__name__}, expected a PIL image, such as of read_image(path) or "
            "Image.fromarray(array)"
        )
    if image.mode == "RGB":
        return image
    # PIL opens a PPM of 16 bits as an image of 32 bits. Before version 10.3, it did so with a PNG too.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image) // 256).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        kind = "real numbers" if image.mode == "F" else "whole numbers of 32 bits"
        raise ValueError(
            f"pixels are {kind} of unknown range, expected 8 or 16 bits: scale them to 0..255, and make an "
            "image of these, Image.fromarray(pixels.astype('uint8'))"
        )
    return image.convert("RGB")


def left_out(source: Path, out: Path) -> list[str]:
    """Tells in one line each what :func:`image_paths` leaves out of a folder."""
    if not source.is_dir():
        return []
    files = files_in(source, out)
    images = [path for path in files if is_image(path)]
    within = sum(is_image(path) for path in set(files_in(source)).difference(files))
    unnamed = [path.name for path in images if not _is_text(path, source)]
    notes = {
        ignored(files): True,
        f"{within} images within {out} are left out": within > 0,
        f"{len(unnamed)} images are left out, whose names are no text, such as {unnamed[:1]}": bool(unnamed),
    }
    return [note for note, applies in notes.items() if note and applies]


def stamp_of(path: Path) -> tuple[int, int]:
    """Returns when a file was changed last, in nanoseconds, and its size: another stamp is another file."""
    state = path.stat()
    return state.st_mtime_ns, state.st_size


def _is_text(path: Path, folder: Path) -> bool:
    try:
        str(path.relative_to(folder)).encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8
        return False
    return True


def _formats() -> set[str]:
    Image.init()
    _register_heif()
    return Image.OPEN.keys() - UNREADABLE


@functools.cache
def _register_heif() -> None:
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener  # the format of phones, which PIL alone cannot read

        register_heif_opener()
