"""Edited attention maps as files: a folder that a person or a script writes, and that training reads.

A folder of edits holds ``manifest.json`` and, for each edited image, ``maps/<image>.safetensors``.
``python -m abn edit`` writes such a folder from a page in the browser.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from abn.modules.inputs import check_dtype, check_range
from abn.preprocessing import Preprocessing
from abn.saving import replacing

MANIFEST = "manifest.json"
_FORMAT = 1
_PATIENCE = 30
"""Seconds to wait for another process that saves."""


class EditConflictError(ValueError):
    """An edit was changed by someone else in the meantime."""


def save_edit(
    folder: str | Path,
    image: str,
    attention_map: Tensor,
    *,
    preprocessing: Preprocessing,
    original: Tensor | None = None,
    details: Mapping[str, Any] | None = None,
    replaces: int | None = None,
) -> int:
    """Saves the edited map of an image. An older edit of this image is replaced.

    Each file is written in one step, and several processes may save into one folder.

    Args:
        folder: Folder of the edits. Made if it does not exist.
        image: Path of the image, relative to the folder of the images, with forward slashes: ``"cat/1.jpg"``.
        attention_map: The edited map, (1, h, w) in [0, 1], or one map per task, (T, h, w), of any resolution.
            It lies over the part of the image that the network sees: ``preprocessing.view(image)``.
        preprocessing: Preparation of the images for the network whose maps were edited.
        original: The network's own map, (T, h, w), of any range, to compare with.
        details: What else is known, such as the label, or the predictions before and after. Goes into the
            manifest, so it must be JSON.
        replaces: Revision of the edit that this one replaces, 0 if there is none: another edit is then kept,
            and an error raised. Default: any edit of this image is replaced.

    Returns:
        The revision of the saved edit. Later edits in this folder have higher ones.

    Raises:
        EditConflictError: If the folder holds another revision than ``replaces``.
        OSError: If a file cannot be written.
        TypeError: If a map is no tensor.
        ValueError: If ``image`` is no relative path, a map has another shape or range, ``details`` are not
            JSON, or the folder holds edits over another part of the images.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     revision = save_edit(
        ...         folder, "cat/1.jpg", torch.rand(1, 14, 14), preprocessing=Preprocessing()
        ...     )
        ...     edits = Edits(folder)
        ...     list(edits), edits["cat/1.jpg"].shape
        (['cat/1.jpg'], torch.Size([1, 14, 14]))
    """
    folder = Path(folder)
    name = checked_name(image)
    maps = {"attention_map": _checked_map(attention_map, "attention_map")}
    check_range(maps["attention_map"], "attention_map")
    if original is not None:
        maps["original"] = _checked_map(original, "original")
    if taken := {"size", "revision"} & (details or {}).keys():
        raise ValueError(f"details hold {taken}, which the manifest tells of every edit: take other names")
    try:
        entry = json.loads(
            json.dumps({**(details or {}), "size": list(attention_map.shape)}, allow_nan=False)
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"details of {name} are not JSON: {error}") from error
    file = _file_of(folder, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock", _PATIENCE):
        manifest = _manifest_for(folder, preprocessing)
        _check_revision(manifest, name, replaces)
        manifest["saves"] += 1
        manifest["images"][name] = {**entry, "revision": manifest["saves"]}
        # Both are written before one is replaced, so that a full disk leaves both as they were.
        with replacing(folder / MANIFEST) as text, replacing(file) as part:
            _write_manifest(text, manifest)
            try:
                save_file(maps, part)
            except SafetensorError as error:  # a full disk, for example
                raise OSError(f"{file} could not be written: {error}") from error
    return int(manifest["saves"])


def remove_edit(folder: str | Path, image: str, *, replaces: int | None = None) -> None:
    """Removes the edited map of an image.

    Args:
        folder: Folder of the edits.
        image: Path of the image, as in :func:`save_edit`.
        replaces: Revision of the edit that is removed. Default: whichever there is.

    Raises:
        EditConflictError: If the folder holds another revision than ``replaces``.
        FileNotFoundError: If the folder holds no edits.
        KeyError: If the folder holds no edit of this image.
        OSError: If a file cannot be written.
    """
    edits, name = Edits(folder), checked_name(image)
    with FileLock(edits.folder / ".lock", _PATIENCE):
        manifest = _manifest_for(edits.folder, edits.preprocessing)
        _check_revision(manifest, name, replaces)
        if manifest["images"].pop(name, None) is None:
            raise KeyError(name)
        with replacing(edits.folder / MANIFEST) as text:
            _write_manifest(text, manifest)
        _file_of(edits.folder, name).unlink(missing_ok=True)


class Edits(Mapping[str, Tensor]):
    """The edited maps in a folder, by image: ``edits["cat/1.jpg"]`` is (T, h, w), float32, in [0, 1].

    Args:
        folder: A folder that :func:`save_edit` wrote.

    Raises:
        FileNotFoundError: If there is no such folder, or it holds no ``manifest.json``.
        ValueError: If the manifest is damaged. Reading a map raises it too, if its file is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        manifest = _read_manifest(self.folder)
        if manifest is None:
            raise FileNotFoundError(f"{self.folder} holds no {MANIFEST}, expected a folder of edited maps")
        self.preprocessing = _preprocessing(manifest, self.folder)
        """Preparation of the images. The maps lie over the part of an image that it keeps."""
        self.details: dict[str, dict[str, Any]] = manifest["images"]
        """What the manifest tells of each edited image."""

    def __getitem__(self, image: str) -> Tensor:
        return self._read(image, "attention_map")

    def __contains__(self, image: object) -> bool:  # without this, Mapping reads the map to find out
        return image in self.details

    def __iter__(self) -> Iterator[str]:
        return iter(self.details)

    def __len__(self) -> int:
        return len(self.details)

    def revision(self, image: str) -> int:
        """The revision of the edit of an image, for ``replaces`` of :func:`save_edit`; 0 if there is none."""
        return int(self.details[image]["revision"]) if image in self.details else 0

    def original(self, image: str) -> Tensor:
        """The network's own map of an image, (T, h, w). Raises a ValueError if it was not saved."""
        return self._read(image, "original")

    def check_same_part(self, preprocessing: Preprocessing) -> None:
        """Raises a ValueError if this preparation keeps another part of images than the edits lie over."""
        _check_same_part(self.preprocessing, preprocessing, self.folder)

    def _read(self, image: str, kind: str) -> Tensor:
        if image not in self.details:
            raise KeyError(image)
        file = _file_of(self.folder, image)
        try:
            with safe_open(file, "pt") as tensors:
                values: Tensor = tensors.get_tensor(kind)
            values = _checked_map(values, kind)
        except Exception as error:  # safetensors raises errors of several kinds
            raise ValueError(f"{file} cannot be read: {error}") from error
        return values


def checked_name(image: object) -> str:
    """Returns the name of an image if an edit can be saved under it. Raises a ValueError if not."""
    path = PurePosixPath(image) if isinstance(image, str) else PurePosixPath()
    if path.is_absolute() or not path.parts or ".." in path.parts or {"\\", ":"} & set(str(path)):
        raise ValueError(f"image is {image!r}, expected a path relative to the folder of the images")
    return str(path)


def _checked_map(values: Tensor, name: str) -> Tensor:
    check_dtype(values, name)
    if values.ndim != 3 or not values.numel():
        raise ValueError(f"{name} has shape {tuple(values.shape)}, expected (T, h, w), T = 1 for one task")
    values = values.detach().cpu().float().contiguous()
    if not values.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinite values, expected finite ones")
    return values


def _file_of(folder: Path, name: str) -> Path:
    return folder / "maps" / f"{name}.safetensors"


def _manifest_for(folder: Path, preprocessing: Preprocessing) -> dict[str, Any]:
    """Returns the manifest of a folder, or a new one, if it is for images prepared in this way."""
    manifest = _read_manifest(folder)
    if manifest is None:
        return {"format": _FORMAT, "preprocessing": asdict(preprocessing), "saves": 0, "images": {}}
    _check_same_part(_preprocessing(manifest, folder), preprocessing, folder)
    return manifest


def _check_same_part(known: Preprocessing, other: Preprocessing, folder: Path) -> None:
    if not known.keeps_same_part_as(other):
        raise ValueError(
            f"{folder} holds edits for images prepared by {known}, which keeps another part of each image "
            f"than {other}: take another folder"
        )


def _write_manifest(file: Path, manifest: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _check_revision(manifest: Mapping[str, Any], name: str, expected: int | None) -> None:
    found = manifest["images"].get(name, {}).get("revision", 0)
    if expected not in (None, found):
        changed = "was changed" if found else "was removed"
        raise EditConflictError(f"the edit of {name} {changed} by someone else since it was opened")


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    file = folder / MANIFEST
    if not file.is_file():
        return None
    try:
        manifest = json.loads(file.read_bytes())
        entries = manifest["images"]
        sound = manifest["format"] == _FORMAT and isinstance(manifest["preprocessing"], dict)
        sound = sound and isinstance(manifest["saves"], int)
        sound = sound and all(isinstance(entry["revision"], int) for entry in entries.values())
        for name in entries:
            checked_name(name)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged, or no manifest of edited maps: {error!r}") from error
    if not sound:
        raise ValueError(f"{file} is damaged, or of a later version of this library")
    return dict(manifest)


def _preprocessing(manifest: Mapping[str, Any], folder: Path) -> Preprocessing:
    values = manifest["preprocessing"]
    try:
        if missing := {field.name for field in fields(Preprocessing)} - values.keys():
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        return Preprocessing.from_json(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / MANIFEST} tells no preparation of images: {error}") from error
