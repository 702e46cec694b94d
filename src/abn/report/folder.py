"""Explains all images of a folder: ``python -m abn explain``."""

import errno
import hashlib
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from abn.images import files_in, ignored, image_paths, read_image
from abn.modules.maps import MAPS
from abn.network import ABN
from abn.preprocessing import stated_preprocessing
from abn.progress import progress
from abn.report.entries import Entry, Journal, entry_of, write_table
from abn.report.page import write_page
from abn.report.pictures import PANEL, draw
from abn.saving import replacing
from abn.visualize.comparison import METHODS, cam_maps
from abn.visualize.overlays import Sign, default_colormap, over_colors
from abn.visualize.predictions import is_of_classes

_logger = logging.getLogger("abn.report")


def explain(
    model: ABN,
    source: Path,
    out: Path,
    *,
    batch_size: int = 16,
    rescale: bool = False,
    sign: Sign | None = None,
    of_class: int | None = None,
    method: str | None = None,
    top: int | None = None,
) -> dict[Path, str]:
    """Writes a picture for each image, and a report of all: ``report.html`` and ``report.csv``.

    A picture shows what the network sees, its attention map over it, and the five likeliest classes; for a
    network of several tasks, the map and the score of each task. An interrupted run goes on where it stopped
    if it is called again.

    Args:
        model: A network on any device. It is left in evaluation mode.
        source: An image, or a folder, which is searched with all its subfolders.
        out: Folder for the pictures and the report, made if it does not exist. The picture of
            ``source/cats/1.jpg`` is ``out/cats/1_map.png``; or ``out/cats/1.jpg_map.png``, if another image
            has this name with another ending.
        batch_size: Number of images that the network takes at a time.
        rescale: Whether to stretch each map's own range over the colours, see :func:`abn.visualize.overlay`.
            Maps without an upper bound, as in official SE-ResNets, are stretched unless ``sign`` is given.
        sign: Which part to show of maps that have both signs, as in official networks of several tasks,
            see :func:`abn.visualize.overlay`. Default: both.
        of_class: Class whose evidence to show, see :meth:`abn.ABN.class_map`. Default: the map of the
            network, which shows the classes that the network sees.
        method: Another method whose map is drawn beside the network's: ``"gradcam"`` or another of
            :func:`abn.visualize.compare`. Default: none.
        top: Number of images that get a picture: those of which the network is least sure. All images are in
            the report. Default: all get a picture.

    Returns:
        The reason for each image that could not be read, or whose picture could not be written.

    Raises:
        FileNotFoundError: If the source does not exist, or holds no image.
        ImportError: If no library for ``method`` is installed.
        OSError: If the folder ``out`` cannot be made, or the disk is full.
        ValueError: If the network does not run on RGB images prepared for it, or has no class ``of_class``,
            if ``out`` is the folder of the images, or ``method`` or ``top`` is not as described.
    """
    paths = image_paths(source, out)
    if method is not None and method not in METHODS:
        raise ValueError(f"method is {method!r}, expected one of {', '.join(map(repr, METHODS))}")
    if top is not None and top < 1:
        raise ValueError(f"top is {top}, expected at least 1")
    if source.is_dir() and (ignored_files := ignored(files_in(source, out))):
        _logger.warning("%s: %s", source, ignored_files)
    root = source if source.is_dir() else source.parent
    run = _Run(model.eval(), root, out, batch_size, rescale, sign, of_class, method)
    names = [path.relative_to(root).as_posix() for path in paths]
    run.out.mkdir(parents=True, exist_ok=True)
    journal = Journal(out / ".report.jsonl", run.identity())
    skipped: dict[Path, str] = {}
    pictures = _pictures_of(names)
    fresh = [
        path
        for path, name in zip(paths, names, strict=True)
        if not run.is_done(path, journal.entries.get(name), pictures[name] if top is None else None)
    ]
    run.process(fresh, journal, skipped, pictures if top is None else {})
    entries = [journal.entries[name] for name in names if name in journal.entries]
    if top is not None:
        if any(entry.of_tasks for entry in entries):
            raise ValueError(f"top is {top}, but several tasks have no confidence: leave it out")
        least_sure = sorted(
            (entry for entry in entries if entry.answers), key=lambda entry: entry.answers[0][1]
        )
        chosen = [root / entry.image for entry in least_sure[:top]]
        run.process(chosen, journal, skipped, pictures)
    write_table(out / "report.csv", entries)
    title = f"{root.name}: where the network looks"
    write_page(out / "report.html", entries, title=title, colormap=default_colormap(run.sign))
    return skipped


def _pictures_of(names: Sequence[str]) -> dict[str, str]:
    """Returns the name of the picture of each image. No image of a user has this name by chance."""
    stems = {name: str(PurePosixPath(name).with_suffix("")) for name in names}
    count = Counter(stems.values())
    return {name: f"{stem if count[stem] == 1 else name}_map.png" for name, stem in stems.items()}


class _Run:
    """One network, and how its maps are drawn."""

    def __init__(
        self,
        model: ABN,
        root: Path,
        out: Path,
        batch_size: int,
        rescale: bool,
        sign: Sign | None,
        of_class: int | None,
        method: str | None,
    ) -> None:
        kind = MAPS.get(getattr(model.attention_branch, "map", ""), MAPS["evidence"])
        if kind.signed and not rescale:
            sign = sign or "both"
        self.model, self.root, self.out, self.batch_size = model, root, out, batch_size
        self.sign, self.of_class, self.method = sign, of_class, method
        self.rescale = rescale or (sign is None and not kind.bounded)
        self.preprocessing = stated_preprocessing(model)
        self.device = next(model.parameters()).device
        self.notes = []
        if of_class is not None:
            names = model.classes or ()
            name = names[of_class] if of_class < len(names) else f"class {of_class}"
            self.notes.append(f"map: {name}")
        if method is not None:
            self.notes.append(f"on the right: {METHODS[method][0]} of the likeliest class")

    def identity(self) -> dict[str, Any]:
        """Returns what makes two runs equal, for JSON."""
        digest = hashlib.sha256()
        for value in self.model.state_dict().values():
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        classes = self.model.classes
        return {
            "weights": digest.hexdigest(),
            "preprocessing": str(self.preprocessing),
            "classes": None if classes is None else list(classes),
            **{name: getattr(self, name) for name in ("rescale", "sign", "of_class", "method")},
        }

    def is_done(self, path: Path, entry: Entry | None, picture: str | None) -> bool:
        """Tells whether an image was explained before, and has not changed."""
        done = entry is not None and path.is_file() and entry.changed == path.stat().st_mtime
        return done and (picture is None or (self.out / picture).is_file())

    def process(
        self,
        paths: Sequence[Path],
        journal: Journal,
        skipped: dict[Path, str],
        pictures: Mapping[str, str],
    ) -> None:
        """Explains images: keeps an entry of each, and writes the pictures that have a name."""
        with progress(len(paths), " images") as bar:
            for start in range(0, len(paths), self.batch_size):
                chosen = paths[start : start + self.batch_size]
                for path, entry, picture in self._explained(chosen):
                    error = entry.error
                    if picture is not None and (name := pictures.get(entry.image)) is not None:
                        error = _saved(picture(), self.out / name)
                    if error is not None:
                        skipped[path] = error
                        tqdm.write(f"skipped: {error}", file=sys.stderr)
                    journal.add(entry)
                bar.update(len(chosen))

    def _explained(
        self, paths: Sequence[Path]
    ) -> Iterator[tuple[Path, Entry, Callable[[], Image.Image] | None]]:
        """Yields for each image its entry, and a function that draws its picture."""
        images, views, read = [], [], []
        for path in paths:
            name = path.relative_to(self.root).as_posix()
            try:
                changed, image = path.stat().st_mtime, read_image(path)
                images.append(self.preprocessing(image))
                views.append(self.preprocessing.view(image, longest=PANEL))  # the image itself may be large
                read.append((path, name, changed))
            except OSError as error:
                yield path, Entry(name, error=str(error)), None
        if not images:
            return
        logits, maps, others = self._maps(torch.stack(images).to(self.device))
        arguments: dict[str, Any] = {"sign": self.sign, "rescale": self.rescale}
        classes = self.model.classes
        for (path, name, changed), view, scores, of_image, other in zip(
            read, views, logits, maps, others, strict=True
        ):
            shown = over_colors(of_image, self.rescale, self.sign).clamp(0, 1)
            entry = entry_of(name, changed, view, scores, of_image, shown, classes)
            yield path, entry, partial(draw, view, of_image, scores, classes, arguments, self.notes, other)

    def _maps(self, images: Tensor) -> tuple[Tensor, Tensor, list[list[Tensor]]]:
        """Returns scores, maps (B, T, h, w), and for each image the maps of other methods, one or none."""
        try:
            with torch.inference_mode():
                output = self.model(images)
                maps = output.attention_map
                if self.of_class is not None:
                    maps = self.model.class_map(images, self.of_class)
        except RuntimeError as error:
            raise ValueError(f"the network does not run on images {tuple(images.shape)}: {error}") from error
        logits = output.perception_logits.float().cpu()
        others: list[list[Tensor]] = [[] for _ in images]
        if self.method is not None:
            if not is_of_classes(logits[0], maps[0]):
                raise ValueError(f"{METHODS[self.method][0]} is for networks of classes, of one task")
            of_method = cam_maps(self.model, images, self.method, logits.argmax(dim=1))
            others = [[one.float().cpu()] for one in of_method]
        return logits, maps.float().cpu(), others


def _saved(picture: Image.Image, target: Path) -> str | None:
    """Writes a picture. Returns why this is not possible, for this image alone."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as file:
            picture.save(file, format="png")
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        return str(error)  # its name is too long, or a folder has that name
    return None
