"""Explains all images of a folder: ``python -m abn explain``."""

import errno
import hashlib
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from abn.images import image_paths, left_out, read_image, stamp_of
from abn.modules.inputs import check_counts, resize_maps
from abn.modules.maps import MAPS, kind_of
from abn.network import ABN
from abn.predictions import is_of_classes
from abn.preprocessing import stated_preprocessing
from abn.progress import progress
from abn.report.entries import Entry, Journal, entry_of, write_table
from abn.report.page import write_page
from abn.report.pictures import PANEL, draw
from abn.saving import replacing
from abn.visualize.comparison import METHODS, cam_maps
from abn.visualize.overlays import Sign, default_colormap, over_colors, overlay

Draw = Callable[[], Image.Image]
JOURNAL, TABLE, PAGE = ".report.jsonl", "report.csv", "report.html"
_logger = logging.getLogger("abn.report")


def explain(
    model: ABN,
    source: Path,
    out: Path,
    *,
    batch_size: int = 16,
    rescale: bool = False,
    sign: Sign | None = None,
    opacity: float = 0.5,
    colormap: str | None = None,
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
        opacity: Opacity of the maps over the images, 0 to 1.
        colormap: Name of a colour map of matplotlib, see :func:`abn.visualize.overlay`.
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
            if ``out`` is the folder of the images or holds files of these names that no run wrote, or
            ``method`` or ``top`` is not as described, or is given for a network without classes.
    """
    paths = image_paths(source, out)
    if method is not None and method not in METHODS:
        raise ValueError(f"method is {method!r}, expected one of {', '.join(map(repr, METHODS))}")
    check_counts(batch_size=batch_size, top=top)
    for note in left_out(source, out):
        _logger.warning("%s: %s", source, note)
    root = source if source.is_dir() else source.parent
    drawn: dict[str, Any] = {"rescale": rescale, "sign": sign, "opacity": opacity, "colormap": colormap}
    overlay(Image.new("RGB", (1, 1)), torch.zeros(1, 1), **drawn)  # raises its errors before any work is done
    run = _Run(model.eval(), root, out, batch_size, drawn, of_class, method)
    run.check(needs_classes=method is not None or top is not None)
    names = [path.relative_to(root).as_posix() for path in paths]
    pictures = _pictures_of(names)
    out.mkdir(parents=True, exist_ok=True)
    journal = Journal(out / JOURNAL, run.identity())
    _check_nothing_of_others(out, journal, pictures.values())
    expected = pictures if top is None else {}
    fresh = [
        path
        for path, name in zip(paths, names, strict=True)
        if not run.is_done(path, journal.entries.get(name), expected.get(name))
    ]
    run.process(fresh, journal, expected)
    if top is not None:
        sure = [entry for entry in map(journal.entries.get, names) if entry is not None and entry.answers]
        chosen = {entry.image for entry in sorted(sure, key=lambda entry: entry.answers[0].value)[:top]}
        for entry in sure:
            if entry.image not in chosen:
                journal.entries[entry.image] = replace(entry, picture=None)
        late = [
            path
            for path, name in zip(paths, names, strict=True)
            if name in chosen and not run.is_done(path, journal.entries[name], pictures[name])
        ]
        run.process(late, journal, pictures)
    entries = [journal.entries[name] for name in names]
    journal.close(entries)
    write_table(out / TABLE, entries)
    title = f"{root.resolve().name}: where the network looks".encode(errors="replace").decode()
    write_page(
        out / PAGE,
        entries,
        title=title,
        colormap=colormap or default_colormap(run.sign),
        opacity=opacity,
        map_names=[] if method is None else ["the network", METHODS[method][0]],
    )
    return {root / entry.image: entry.error for entry in entries if entry.error is not None}


def _check_nothing_of_others(out: Path, journal: Journal, pictures: Iterable[str]) -> None:
    """Raises a ValueError if a file would be replaced that no run wrote."""
    files = [name for name in pictures if name not in journal.pictures]
    if not journal.path.is_file():
        files += [TABLE, PAGE]
    if known := [name for name in files if (out / name).is_file()]:
        raise ValueError(f"{out / known[0]} exists, and is not from a run before: take another folder")


def _pictures_of(names: Sequence[str]) -> dict[str, str]:
    """Returns the name of the picture of each image. No two are equal."""
    stems = {name: str(PurePosixPath(name).with_suffix("")) for name in names}
    count = Counter([*stems.values(), *names])
    return {name: f"{stem if count[stem] == 1 else name}_map.png" for name, stem in stems.items()}


class _Run:
    """One network, and how its maps are drawn."""

    def __init__(
        self,
        model: ABN,
        root: Path,
        out: Path,
        batch_size: int,
        drawn: dict[str, Any],
        of_class: int | None,
        method: str | None,
    ) -> None:
        kind = kind_of(model.attention_branch) or MAPS["evidence"]
        rescale, sign = drawn["rescale"], drawn["sign"]
        if kind.signed and not rescale:
            sign = sign or "both"
        self.model, self.root, self.out, self.batch_size = model, root, out, batch_size
        self.sign, self.of_class, self.method = sign, of_class, method
        self.rescale = rescale or (sign is None and not kind.bounded)
        self.drawn = {**drawn, "rescale": self.rescale, "sign": sign}
        self.preprocessing = stated_preprocessing(model)
        self.weight = next(model.parameters())
        self.notes = []
        if of_class is not None:
            names = model.classes or ()
            name = names[of_class] if of_class < len(names) else f"class {of_class}"
            self.notes.append(f"map: {name}")
        if method is not None:
            self.notes.append(f"on the right: {METHODS[method][0]} of the likeliest class")

    def check(self, needs_classes: bool) -> None:
        """Runs the network on a blank image. Raises a ValueError if it does not do what is asked for."""
        blank = torch.zeros(1, 3, *self.preprocessing.size).to(self.weight.device, self.weight.dtype)
        try:
            with torch.inference_mode():
                _, logits, maps = self.model(blank)
        except RuntimeError as error:
            raise ValueError(f"the network does not run on images {tuple(blank.shape)}: {error}") from error
        if needs_classes and not is_of_classes(logits[0], maps[0]):
            raise ValueError("method and top are for networks of classes, of one task: leave them out")
        self._maps(blank)  # fails if there is no such class, or no library for the method

    def identity(self) -> dict[str, Any]:
        """Returns what makes two runs equal, for JSON."""
        digest = hashlib.sha256(repr(self.model).encode())  # with the kind of map and the mechanism
        for value in self.model.state_dict().values():
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        classes = self.model.classes
        return {
            "network": digest.hexdigest(),
            "folder": str(self.root.resolve()),
            "preprocessing": str(self.preprocessing),
            "classes": None if classes is None else list(classes),
            "drawn": self.drawn,
            "of_class": self.of_class,
            "method": self.method,
        }

    def is_done(self, path: Path, entry: Entry | None, picture: str | None) -> bool:
        """Tells whether an image was explained before, and has not changed, and has this picture."""
        if entry is None or not path.is_file() or entry.stamp != stamp_of(path):
            return False
        return picture is None or (entry.picture == picture and (self.out / picture).is_file())

    def process(
        self,
        paths: Sequence[Path],
        journal: Journal,
        pictures: Mapping[str, str],
    ) -> None:
        """Explains images: keeps an entry of each, and writes the pictures that have a name."""
        with progress(len(paths), " images") as bar:
            for start in range(0, len(paths), self.batch_size):
                chosen = paths[start : start + self.batch_size]
                for entry, make_picture in self._explained(chosen):
                    if make_picture is not None:
                        entry = replace(entry, picture=pictures.get(entry.image))
                    journal.add(entry)  # before the picture is written, so that it is known to be ours
                    if make_picture is not None and entry.picture is not None:
                        error = _saved(make_picture(), self.out / entry.picture)
                        if error is not None:
                            entry = replace(entry, picture=None, error=error)
                            journal.add(entry)
                    if entry.error is not None:
                        tqdm.write(f"skipped: {entry.error}", file=sys.stderr)
                bar.update(len(chosen))

    def _explained(self, paths: Sequence[Path]) -> Iterator[tuple[Entry, Draw | None]]:
        """Yields for each image its entry, and a function that draws its picture."""
        images, views, read = [], [], []
        for path in paths:
            name = path.relative_to(self.root).as_posix()
            try:
                stamp, image = stamp_of(path), read_image(path)
                images.append(self.preprocessing(image))
                views.append(self.preprocessing.view(image, longest=PANEL))  # the image itself may be large
                read.append((path, name, stamp))
            except OSError as error:
                yield Entry(name, error=str(error)), None
        if not images:
            return
        results = self._maps(torch.stack(images).to(self.weight.device, self.weight.dtype))
        classes = self.model.classes
        for (path, name, stamp), view, logits, maps, others in zip(read, views, *results, strict=True):
            if not logits.isfinite().all():
                raise ValueError(f"the network's answer to {path} is not a number: did its training diverge?")
            parts = maps.split(1) if self.rescale else [maps]  # each map is stretched alone
            shown = torch.cat([over_colors(part, self.rescale, self.sign) for part in parts]).clamp(0, 1)
            size = (shown.shape[1], shown.shape[2])
            shown = torch.cat([shown, *(resize_maps(other[None], size)[0] for other in others)])
            entry = entry_of(name, stamp, view, logits, maps, shown, classes)
            yield entry, partial(draw, view, maps, logits, classes, self.drawn, self.notes, others)

    def _maps(self, images: Tensor) -> tuple[Tensor, Tensor, list[list[Tensor]]]:
        """Returns scores, maps (B, T, h, w), and for each image the maps of other methods, one or none."""
        with torch.inference_mode():
            output = self.model(images)
            maps = output.attention_map
            if self.of_class is not None:
                maps = self.model.class_map(images, self.of_class)
        logits = output.perception_logits.float().cpu()
        others: list[list[Tensor]] = [[] for _ in images]
        if self.method is not None:
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
