"""A network, its images and their edited maps. Runs the network on edited maps."""

import io
import logging
import threading
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from abn.editor.answers import rows_of, summary_of
from abn.editor.masks import find_masks, to_map
from abn.edits import MANIFEST, Edits, checked_name, remove_edit, save_edit
from abn.images import image_paths, left_out, read_image, stamp_of
from abn.modules.features import Features
from abn.modules.inputs import check_range, resize_maps
from abn.modules.maps import kind_of
from abn.network import ABN
from abn.predictions import is_of_classes, label_of, names_of
from abn.preprocessing import stated_preprocessing

PICTURE, THUMBNAIL = 1024, 96
"""Pixels of the longer side of the image on the page, and of the image in the list."""
_REMEMBERED = 16
"""Number of images whose features are kept."""


_logger = logging.getLogger("abn.editor")


class Seen(NamedTuple):
    """The network's view of one image."""

    features: Tensor | Features
    """(1, C, h', w'), on the device of the network."""
    attention_map: Tensor
    """The network's own map, (T, h, w), in [0, 1]."""
    logits: Tensor
    """(K,), (T,) or (K, T)."""


class ReadOnlyError(Exception):
    """The edits were opened for reading alone."""


class Session:
    """A network, the images of a folder, and the edited maps of these images.

    Methods may be called by several threads. The network runs for one of them at a time.

    Args:
        model: A network whose maps lie between 0 and 1, on any device. It is left in evaluation mode.
        source: An image, or a folder, which is searched with all its subfolders.
        out: Folder of the edits. Made with the first edit.
        name: Name of the network, for the manifest of the edits.
        masks: Masks from which an edit can start, see :func:`abn.editor.masks.find_masks`.
        read_only: Whether edits are refused.

    Raises:
        FileNotFoundError: If the source does not exist, or holds no image, or there are no masks.
        NotADirectoryError: If ``out`` is a file.
        ValueError: If no image has a mask, the network's maps have no bounds, the network does not run on RGB
            images prepared for it, or the edits in ``out`` are damaged or lie over another part of images.
    """

    def __init__(
        self,
        model: ABN,
        source: Path,
        out: Path,
        *,
        name: str,
        masks: Path | None = None,
        read_only: bool = False,
    ) -> None:
        kind = kind_of(model.attention_branch)
        if kind is not None and not kind.bounded:
            raise ValueError(
                f"the maps of this network ({kind.name!r}) have no bounds, expected maps from 0 to 1, on "
                "which one can paint"
            )
        self.model, self.out, self.name, self.read_only = model.eval(), out, name, read_only
        self.root = source if source.is_dir() else source.parent
        self.paths = image_paths(source, out)
        for note in left_out(source, out):
            _logger.warning("%s: %s", source, note)
        self.names = [path.relative_to(self.root).as_posix() for path in self.paths]
        self.preprocessing = stated_preprocessing(model)
        self.masks = None if masks is None else find_masks(masks, self.names)
        if out.exists() and not out.is_dir():
            raise NotADirectoryError(f"{out} is a file, expected a folder for the edits")
        self.edits()  # raises its errors
        self._weight = next(model.parameters())
        self._model_lock = threading.Lock()
        self._asked = 0.0
        self._reading = threading.Semaphore(2)  # a photograph may take much memory while it is read
        self._see_once = lru_cache(_REMEMBERED)(self._see)
        try:
            blank = self._run(torch.zeros(3, *self.preprocessing.size))
        except RuntimeError as error:
            size = (1, 3, *self.preprocessing.size)
            raise ValueError(f"the network does not run on images {size}: {error}") from error
        self.of_classes = is_of_classes(blank.logits, blank.attention_map)
        self.class_maps = self.of_classes and kind is not None and kind.of_evidence is not None
        self.output_names = names_of(blank.logits, model.classes, tasks=not self.of_classes)
        """Names of the classes, or of the tasks."""
        tasks, height, width = blank.attention_map.shape
        self.shape = (tasks, height, width)
        """Number of maps, their height and width: (T, h, w)."""

    def label(self, index: int) -> str | None:
        """The class of an image, if it lies in a folder that has the name of a class."""
        return label_of(self.names[index], self.model.classes) if self.of_classes else None

    def jpeg(self, index: int, longest: int) -> bytes:
        """Returns the part of an image that the network sees, as a JPEG file.

        Raises:
            OSError: If the image cannot be read.
        """
        file = io.BytesIO()
        with self._reading:
            view = self.preprocessing.view(read_image(self.paths[index]), longest=longest)
        view.save(file, "jpeg", quality=92)
        return file.getvalue()

    def opened(self, index: int) -> dict[str, Any]:
        """Returns what the page shows of an image. Raises an OSError if the image cannot be read."""
        seen, edits = self.seen(index), self.edits()
        name = self.names[index]
        edit, problem = None, None
        try:
            checked_name(name)
        except ValueError as error:
            problem = f"An edit of this image cannot be saved: {error}"
        if edits is not None and name in edits:
            try:
                edit = self._on_grid(edits[name])
            except ValueError as error:
                problem = f"The saved edit cannot be shown: {error}"
        return {
            "name": name,
            "label": self.label(index),
            "own": _rounded(seen.attention_map),
            "edit": None if edit is None else _rounded(edit),
            "revision": 0 if edits is None else edits.revision(name),
            "problem": problem,
            "mask": self.masks is not None and name in self.masks,
        }

    def answer(self, index: int, maps: Tensor) -> list[dict[str, Any]]:
        """Returns the perception branch's answer before and after an edit.

        Args:
            index: Number of the image.
            maps: The edited maps, (T, h, w), in [0, 1].

        Returns:
            Rows for the page, see :func:`abn.editor.answers.rows_of`.
        """
        before, after = self.seen(index).logits, self._logits(index, maps)
        return rows_of(before, after, self.output_names, self.of_classes)

    def class_map(self, index: int, number: int) -> list[Any]:
        """Returns the map (1, h, w) of the evidence for a class.

        Raises:
            OSError: If the image cannot be read.
            ValueError: If there is no such class, or no such map of this network.
        """
        image = self._prepared(index)
        with self._model_lock, torch.inference_mode():
            attention_map = self.model.class_map(self._batch(image), number)
        return _rounded(attention_map[0].float().cpu())

    def mask(self, index: int) -> list[Any]:
        """Returns the mask of an image as a map for each task.

        Raises:
            OSError, ValueError: If there is no mask, or it cannot be read, or does not fit the image.
        """
        name = self.names[index]
        if self.masks is None or name not in self.masks:
            raise ValueError(f"there is no mask of {name}")
        with self._reading:
            size = read_image(self.paths[index]).size
        mask = to_map(self.masks.read(name), size, self.preprocessing, self.shape[1:])
        return _rounded(mask.expand(self.shape))

    def save(self, index: int, maps: Tensor, revision: int) -> int:
        """Saves an edit, and returns its revision. See :func:`abn.edits.save_edit`, also for the errors."""
        self._check_writable()
        seen = self.seen(index)
        return save_edit(
            self.out,
            self.names[index],
            maps,
            preprocessing=self.preprocessing,
            original=seen.attention_map,
            details={
                "model": self.name,
                "label": self.label(index),
                "before": summary_of(seen.logits, self.output_names, self.of_classes),
                "after": summary_of(self._logits(index, maps), self.output_names, self.of_classes),
            },
            replaces=revision,
        )

    def remove(self, index: int, revision: int) -> None:
        """Removes an edit. See :func:`abn.edits.remove_edit`, also for the errors."""
        self._check_writable()
        remove_edit(self.out, self.names[index], replaces=revision)

    def edits(self) -> Edits | None:
        """Reads which edits there are. None before the first one. Raises a ValueError if they do not fit."""
        if not (self.out / MANIFEST).is_file():
            return None
        edits = Edits(self.out)
        edits.check_same_part(self.preprocessing)
        return edits

    def idle(self) -> float:
        """Returns for how many seconds nobody has asked for an answer."""
        return time.monotonic() - self._asked

    def seen(self, index: int) -> Seen:
        """Returns the network's view of an image. Raises an OSError if the image cannot be read."""
        try:
            stamp = stamp_of(self.paths[index])
        except OSError as error:
            raise OSError(f"{self.paths[index]} cannot be read as an image: {error}") from error
        return self._see_once(index, stamp)

    def _see(self, index: int, stamp: tuple[int, int]) -> Seen:
        # `stamp` is part of the cache's key: a file that was replaced is seen anew.
        self._asked = time.monotonic()
        return self._run(self._prepared(index))

    def _prepared(self, index: int) -> Tensor:
        with self._reading:
            return self.preprocessing(read_image(self.paths[index]))

    def predict(self, index: int) -> Tensor:
        """Returns the logits of an image, and keeps nothing. Raises an OSError if it cannot be read."""
        return self._run(self._prepared(index)).logits

    def _run(self, image: Tensor) -> Seen:
        with self._model_lock, torch.inference_mode():
            features = self.model.feature_extractor(self._batch(image))
            _, attention_map = self.model.attention_branch(features)
            logits = self.model.perception_branch(features, attention_map)
        return Seen(features, attention_map[0].float().cpu(), logits[0].float().cpu())

    def _batch(self, image: Tensor) -> Tensor:
        return image[None].to(self._weight.device, self._weight.dtype)

    def _logits(self, index: int, maps: Tensor) -> Tensor:
        """Returns the logits with edited maps (T, h, w)."""
        if tuple(maps.shape) != self.shape:
            raise ValueError(f"maps have shape {tuple(maps.shape)}, expected {self.shape}")
        check_range(maps, "maps")
        features = self.seen(index).features
        self._asked = time.monotonic()
        with self._model_lock, torch.inference_mode():
            logits: Tensor = self.model.perception_branch(features, maps[None].to(self._weight.device))
        return logits[0].float().cpu()

    def _on_grid(self, maps: Tensor) -> Tensor:
        if len(maps) != self.shape[0]:
            raise ValueError(f"it has {len(maps)} maps, expected {self.shape[0]}, one per task")
        return resize_maps(maps[None], self.shape[1:])[0]

    def _check_writable(self) -> None:
        if self.read_only:
            raise ReadOnlyError("the edits were opened for reading alone")


def _rounded(maps: Tensor) -> list[Any]:
    """Returns maps as lists for JSON: six digits are more than a brush can paint."""
    values: list[Any] = maps.clamp(0, 1).double().round(decimals=6).tolist()
    return values
