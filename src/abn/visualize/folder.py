"""Draws where a network looks, for all images of a folder: ``python -m abn explain``."""

import errno
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from abn.images import files_in, ignored, is_image, read_image
from abn.modules.maps import MAPS
from abn.network import ABN
from abn.preprocessing import Preprocessing
from abn.saving import replacing
from abn.visualize.overlays import Sign, overlay, task_grid
from abn.visualize.panels import GAP, tile, with_text
from abn.visualize.predictions import is_of_classes, names_of, task_texts, top5

PANEL = 384
"""Pixels of the longer side of each image in a picture."""

_logger = logging.getLogger("abn.visualize")


def explain(
    model: ABN,
    source: Path,
    out: Path,
    *,
    batch_size: int = 16,
    rescale: bool = False,
    sign: Sign | None = None,
    of_class: int | None = None,
) -> dict[Path, str]:
    """Writes a picture for each image: what the network sees, its attention map over it, the top-5 classes.

    For a network of several tasks, the picture has the map and the score of each task.

    Args:
        model: A network on any device. It is left in evaluation mode.
        source: An image, or a folder, which is searched with all its subfolders.
        out: Folder for the pictures, made if it does not exist. Each is named after its image:
            ``out/cats/1.jpg.png`` for ``source/cats/1.jpg``.
        batch_size: Number of images that the network takes at a time.
        rescale: Whether to stretch each map's own range over the colours, see :func:`abn.visualize.overlay`.
            Maps without an upper bound, as in official SE-ResNets, are stretched unless ``sign`` is given.
        sign: Which part to show of maps that have both signs, as in official networks of several tasks,
            see :func:`abn.visualize.overlay`. Default: both.
        of_class: Class whose evidence to show, see :meth:`abn.ABN.class_map`. Default: the map of the
            network, which shows the classes that the network sees.

    Returns:
        The reason for each image that could not be read, or whose picture could not be written. All other
        images have a picture.

    Raises:
        FileNotFoundError: If the source does not exist, or holds no image.
        OSError: If the folder ``out`` cannot be made, or the disk is full.
        ValueError: If the network does not run on RGB images prepared for it, or has no class ``of_class``,
            or if ``out`` is the folder of the images.
    """
    paths = image_paths(source, out)
    root = source if source.is_dir() else source.parent
    if source.is_dir() and (ignored_files := ignored(_files(source, out))):
        _logger.warning("%s: %s", source, ignored_files)
    preprocessing = preprocessing_of(model)
    device = next(model.parameters()).device
    model.eval()
    kind = MAPS.get(getattr(model.attention_branch, "map", ""), MAPS["evidence"])
    if kind.signed and not rescale:
        sign = sign or "both"
    rescale = rescale or (sign is None and not kind.bounded)
    overlay_arguments: dict[str, Any] = {"sign": sign, "rescale": rescale}
    note = None if of_class is None else f"map: {_class_name(model, of_class)}"
    out.mkdir(parents=True, exist_ok=True)
    skipped = {}

    def skip(path: Path, error: OSError) -> None:
        skipped[path] = str(error)
        tqdm.write(f"skipped: {error}", file=sys.stderr)

    with tqdm(total=len(paths), unit=" images") as progress:
        for start in range(0, len(paths), batch_size):
            readable, images, views = [], [], []
            for path in paths[start : start + batch_size]:
                try:
                    prepared, view = _read(path, preprocessing)
                except OSError as error:
                    skip(path, error)
                    continue
                readable.append(path)
                images.append(prepared)
                views.append(view)
            if images:
                logits, maps = _run(model, torch.stack(images).to(device), of_class)
                for path, view, scores, image_maps in zip(readable, views, logits, maps, strict=True):
                    picture = _picture(view, image_maps, scores, model.classes, overlay_arguments, note)
                    target = out / f"{path.relative_to(root)}.png"
                    try:
                        target.parent.mkdir(parents=True, exist_ok=True)
                        with replacing(target) as file:
                            picture.save(file, format="png")
                    except OSError as error:
                        if error.errno == errno.ENOSPC:
                            raise
                        skip(path, error)  # its name is too long, or a folder has that name
            progress.update(len(paths[start : start + batch_size]))
    return skipped


def preprocessing_of(model: ABN) -> Preprocessing:
    """Returns the preparation of images that a network states. Without one, warns and returns ImageNet's.

    Raises:
        ValueError: If the network states something else than a preparation.
    """
    if model.preprocessing is None:
        _logger.warning(
            "the network does not tell how its images are prepared: taken for ImageNet's %s", Preprocessing()
        )
        return Preprocessing()
    if not isinstance(model.preprocessing, Preprocessing):
        raise ValueError(
            f"model.preprocessing is a {type(model.preprocessing).__name__}, expected a Preprocessing, or "
            "None"
        )
    return model.preprocessing


def image_paths(source: Path, out: Path) -> list[Path]:
    """Returns the source if it is a file, else the images in it, but none that are hidden or in ``out``.

    Raises:
        FileNotFoundError: If there is no image.
        ValueError: If ``out`` is the folder of the images.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise FileNotFoundError(f"there is no image and no folder {source}")
    if out.resolve() == source.resolve():
        raise ValueError(f"out is {out}, the folder of the images: take another")
    paths = [path for path in _files(source, out) if is_image(path)]
    if not paths:
        raise FileNotFoundError(f"there is no image in {source}; {ignored(_files(source, out))}".rstrip("; "))
    return paths


def _files(folder: Path, out: Path) -> list[Path]:
    """Returns the files in a folder and its subfolders, but none that are hidden or in ``out``."""
    excluded = out.resolve() if folder.resolve() in out.resolve().parents else None
    return [path for path in files_in(folder) if excluded not in path.resolve().parents]


def _read(path: Path, preprocessing: Preprocessing) -> tuple[Tensor, Image.Image]:
    """Reads an image: returns the network's input and a small view, since the image itself may be large."""
    image = read_image(path)
    return preprocessing(image), preprocessing.view(image, longest=PANEL)


@torch.inference_mode()
def _run(model: ABN, images: Tensor, of_class: int | None) -> tuple[Tensor, Tensor]:
    try:
        output = model(images)
        maps = output.attention_map if of_class is None else model.class_map(images, of_class)
    except RuntimeError as error:
        raise ValueError(f"the network does not run on images {tuple(images.shape)}: {error}") from error
    return output.perception_logits.float().cpu(), maps.float().cpu()


def _picture(
    view: Image.Image,
    attention_maps: Tensor,
    logits: Tensor,
    classes: Sequence[str] | None,
    overlay_arguments: dict[str, Any],
    note: str | None,
) -> Image.Image:
    """Draws an image and its maps (T, h, w), with the scores of the logits (K,), (T,) or (K, T)."""
    if is_of_classes(logits, attention_maps):
        names = names_of(logits, classes)
        lines = [f"{100 * share:5.1f} %  {names[index]}" for index, share in top5(logits)]
        lines += [note] if note else []
        panels = tile([view, overlay(view, attention_maps[0], **overlay_arguments)], columns=2)
        return with_text(panels, lines, font_size=16, width=2 * PANEL + GAP)
    # The score stands first because a long name is cut off.
    labels = [
        f"{text}  {name}"
        for name, text in zip(names_of(logits, classes, tasks=True), task_texts(logits), strict=True)
    ]
    return task_grid(view, attention_maps, labels, **overlay_arguments)


def _class_name(model: ABN, number: int) -> str:
    names = model.classes or ()
    return names[number] if number < len(names) else f"class {number}"
