"""Reads weights from a file that may be damaged, or made to do harm: nothing is unpickled."""

import pickle
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from abn.lock import PROCESS_LOCK

_WRAPPERS = ("module.", "_orig_mod.")  # prefixes that DataParallel and torch.compile add to names


class CheckpointError(ValueError):
    """Raised for a file that holds no weights, or not the weights of the expected network."""


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads a state dict from a safetensors file, or from a file that any version of ``torch.save`` wrote.

    From a trainer's checkpoint, takes the entry ``"state_dict"``, ``"model_state_dict"`` or ``"model"``.
    Removes the prefixes ``module.`` and ``_orig_mod.`` from the names.

    Returns:
        The tensors by name, and the metadata of a safetensors file. Other files have no metadata.

    Raises:
        CheckpointError: If the file is damaged, claims to be larger than it is, or holds anything but
            tensors of numbers.
        FileNotFoundError: If the file does not exist.

    Warns:
        UserWarning: If weights are NaN or infinite.
    """
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is a {'directory' if path.is_dir() else 'device'}, expected a file")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise CheckpointError(f"{path} is empty, expected a checkpoint")
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise CheckpointError(
            f"{path} is a web page, expected a checkpoint: it came in place of the file, which may still be "
            "had by opening the same address in a browser"
        )
    metadata: dict[str, str] = {}
    if head[8:9] == b"{":
        content, metadata = _read_safetensors(path)
    else:
        content = _read_pickle(path, size)
    state_dict = _state_dict(content, path)
    _check_tensors(state_dict, path, size)
    return state_dict, metadata


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - `file` is no mapping
    except Exception as error:  # safetensors raises errors of several kinds
        raise CheckpointError(f"{path} is damaged, cut short or no checkpoint: {error}") from error
    # Weights with two names are written once: the metadata gives the name that was kept for the other one.
    for name, kept_name in metadata.items():
        if kept_name in tensors:
            tensors.setdefault(name, tensors[kept_name])
    return tensors, metadata


def _read_pickle(path: Path, size: int) -> Any:
    """Returns what ``torch.save`` wrote, if it consists of tensors, numbers, texts, lists and dicts."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > size:  # not by torch.save, which does not compress
                raise CheckpointError(f"{path} has {size} bytes, but claims to unpack to {unpacked}")
        with PROCESS_LOCK, torch.serialization.safe_globals(_NUMPY_SCALARS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # zipfile and torch.load raise errors of many kinds
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and foreign:
            raise CheckpointError(
                f"{path} holds an object, {foreign[1]}, that only code named in the file could restore; it "
                "was not run. Where the file was made, write its weights alone: "
                "torch.save(model.state_dict(), 'weights.pth')"
            ) from None
        # The message also advises to unpickle the file after all: take only its reason.
        within = re.search(r"WeightsUnpickler error:\s*(.*)", str(error))
        reason = within[1] if within else str(error).partition("\n")[0].partition(" In PyTorch 2.6")[0]
        raise CheckpointError(
            f"{path} is damaged, cut short or no checkpoint: {reason or repr(error)}"
        ) from error


class _Ignored:
    """Takes the place of NumPy scalars that trainers keep beside the weights, such as an accuracy."""

    def __init__(self, *args: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


_NUMPY_SCALARS: list[Any] = [
    (_Ignored, name)
    for name in ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
]
_DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    for entry in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(entry), dict):
            content = content[entry]
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected a state dict")
    others = [
        key for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if others:
        raise CheckpointError(f"{path} holds {listed(others)}, expected tensors alone, or under 'state_dict'")
    try:
        return unwrapped(content)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _check_tensors(state_dict: dict[str, Tensor], path: Path, size: int) -> None:
    """Raises a CheckpointError unless all tensors are plain arrays of numbers that the file can hold."""
    odd = [
        f"{key} ({value.dtype}, {value.layout}, {value.device}, {tuple(value.shape)})"
        for key, value in state_dict.items()
        if value.dtype not in _DTYPES
        or value.layout != torch.strided
        or value.device.type != "cpu"
        or not value.numel()
    ]
    if odd:
        raise CheckpointError(f"{path} holds {listed(odd)}, expected arrays of numbers")
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage() for value in state_dict.values()}
    larger = [
        key
        for key, value in state_dict.items()
        if value.numel() * value.element_size() > value.untyped_storage().nbytes()
    ]
    if larger or sum(storage.nbytes() for storage in storages.values()) > size:
        raise CheckpointError(
            f"{path} has {size} bytes, and claims to hold more weights than that: {listed(larger)}"
        )
    broken = [key for key, value in state_dict.items() if not value.isfinite().all()]
    if broken:
        warnings.warn(f"{path} holds NaN or infinite weights: {listed(broken)}", stacklevel=2)


def unwrapped(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries without the prefixes that DataParallel and ``torch.compile`` add to names.

    Raises:
        ValueError: If two entries then have the same name.
    """

    def plain(key: str) -> str:
        while key.startswith(_WRAPPERS):
            key = key.split(".", 1)[1]
        return key

    return rekeyed(state_dict, plain)


def rekeyed(state_dict: Mapping[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    """Returns the entries, each under the name that ``rename`` makes of its name.

    Raises:
        ValueError: If two entries then have the same name.
    """
    names = {key: rename(key) for key in state_dict}
    if len(set(names.values())) < len(names):
        counts = Counter(names.values())
        twice = [key for key, name in names.items() if counts[name] > 1]
        raise ValueError(f"entries {twice[:6]} stand for the same weights, expected each once")
    return {names[key]: value for key, value in state_dict.items()}


def misfits(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Lists, by kind of fault, the names that keep ``weights`` from being loaded in place of ``expected``."""
    return {
        "missing": [key for key in expected if key not in weights],
        "not part of it": [key for key in weights if key not in expected],
        "of another shape": [
            f"{key} {tuple(weights[key].shape)}, expected {tuple(value.shape)}"
            for key, value in expected.items()
            if key in weights and weights[key].shape != value.shape
        ],
        "of another kind": [
            f"{key} {weights[key].dtype}, expected {value.dtype}"
            for key, value in expected.items()
            if key in weights and weights[key].is_floating_point() != value.is_floating_point()
        ],
    }


def listed(names: Sequence[object]) -> str:
    """Returns the first five names, and how many more there are, as a text."""
    return ", ".join(map(str, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
