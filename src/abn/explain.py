"""Pictures of where a network looks, for all images of a folder: ``python -m abn explain``."""

import errno
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from tqdm import tqdm

from abn.network import ABN
from abn.preprocessing import Preprocessing, read_image
from abn.saving import replacing
from abn.visualize import overlay

PANEL = 384  # pixels
LINE = 22
UNDECODABLE = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that PIL can tell, but not read by itself."""

_logger = logging.getLogger(__name__)


def explain(
    model: ABN, source: Path, out: Path, *, batch_size: int = 16, rescale: bool = False
) -> dict[Path, str]:
    """Writes for each image what the network sees of it, its attention map over it, and the top-5 classes.

    Args:
        model: On any device; left in evaluation mode.
        source: An image, or a folder, which is searched with all folders in it.
        out: Folder for the pictures, made if it does not exist. Each is named after its image:
            ``out/cats/1.jpg.png`` for ``source/cats/1.jpg``.
        batch_size: Images at a time.
        rescale: Stretches each map's own range over the colours, see :func:`abn.visualize.overlay`. For maps
            that exceed 1, those of SE-ResNets, this is always done.

    Returns:
        The images that could not be read, or their pictures not written, and why. All others were explained.

    Raises:
        FileNotFoundError: If there is no such source, or no image in it.
        OSError: If a picture cannot be written.
        ValueError: If the network does not run on RGB images of the size it is made for.
    """
    paths = image_paths(source, out)
    root = source if source.is_dir() else source.parent
    preprocessing = model.preprocessing
    if preprocessing is None:
        _logger.warning(
            "the network does not tell how its images are prepared: taken for ImageNet's %s", Preprocessing()
        )
        preprocessing = Preprocessing()
    device = next(model.parameters()).device
    model.eval()
    out.mkdir(parents=True, exist_ok=True)
    skipped = {}

    def skip(path: Path, error: OSError) -> None:
        skipped[path] = str(error)
        tqdm.write(f"skipped: {error}", file=sys.stderr)

    with tqdm(total=len(paths), unit=" images") as progress:
        for start in range(0, len(paths), batch_size):
            chosen, images = [], []
            for path in paths[start : start + batch_size]:
                try:
                    images.append(read_image(path))
                    chosen.append(path)
                except OSError as error:
                    skip(path, error)
            if images:
                probabilities, maps = _run(model, torch.stack([*map(preprocessing, images)]).to(device))
                for path, image, row, attention_map in zip(chosen, images, probabilities, maps, strict=True):
                    picture = _picture(
                        preprocessing.view(image), attention_map, _top5(row, model.classes), rescale
                    )
                    target = out / f"{path.relative_to(root)}.png"
                    try:
                        target.parent.mkdir(parents=True, exist_ok=True)
                        with replacing(target) as file:
                            picture.save(file, format="png")
                    except OSError as error:
                        if error.errno == errno.ENOSPC:
                            raise
                        skip(path, error)  # its name is too long, or that of a folder
            progress.update(len(paths[start : start + batch_size]))
    return skipped


def image_paths(source: Path, out: Path) -> list[Path]:
    """The source, or all files in it that are named like an image, but those in ``out`` and hidden ones.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If the pictures would lie among the images.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise FileNotFoundError(f"there is no image and no folder {source}")
    if out.resolve() == source.resolve():
        raise ValueError(f"out is {out}, the folder of the images: take another")
    Image.init()
    known = Image.OPEN.keys() - UNDECODABLE
    endings = {ending for ending, name in Image.registered_extensions().items() if name in known}

    def is_image(path: Path) -> bool:
        inside = path.relative_to(source)
        hidden = any(part.startswith(".") for part in inside.parts)
        return path.suffix.lower() in endings and path.is_file() and not hidden

    ours = out.resolve() if source.resolve() in out.resolve().parents else None
    paths = [
        path for path in sorted(source.rglob("*")) if is_image(path) and ours not in path.resolve().parents
    ]
    if not paths:
        raise FileNotFoundError(f"there is no image in {source}")
    return paths


@torch.inference_mode()
def _run(model: ABN, images: Tensor) -> tuple[Tensor, Tensor]:
    try:
        output = model(images)
    except RuntimeError as error:
        raise ValueError(f"the network does not run on images {tuple(images.shape)}: {error}") from error
    return output.perception_logits.float().softmax(dim=1).cpu(), output.attention_map.float().cpu()


def _top5(probabilities: Tensor, classes: Sequence[str] | None) -> list[str]:
    values, indices = probabilities.topk(min(5, len(probabilities)))
    if classes is None or len(classes) != len(probabilities):
        classes = [f"class {index}" for index in range(len(probabilities))]
    names = [classes[index] for index in indices.tolist()]
    return [f"{100 * value:5.1f} %  {name}" for value, name in zip(values.tolist(), names, strict=True)]


def _picture(view: Image.Image, attention_map: Tensor, lines: list[str], rescale: bool) -> Image.Image:
    """The image, the overlay beside it, and lines of text under them."""
    scale = PANEL / max(view.size)
    view = view.resize((max(round(view.width * scale), 1), max(round(view.height * scale), 1)))
    panels = [view, overlay(view, attention_map, rescale=rescale or bool(attention_map.max() > 1))]
    canvas = Image.new("RGB", (2 * PANEL + 8, view.height + 8 + LINE * len(lines)), "white")
    for column, panel in enumerate(panels):
        canvas.paste(panel, (column * (view.width + 8), 0))
    for row, line in enumerate(lines):
        position = (4, view.height + 6 + LINE * row)
        ImageDraw.Draw(canvas).text(position, line, fill="black", font_size=16)
    return canvas
