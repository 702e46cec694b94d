"""Keeps the state of a run on disk: the last checkpoint, and the one before it."""

import shutil
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from filelock import FileLock, Timeout

from abn.saving import replacing
from training.distributed import Processes

LAST, PREVIOUS = "last.pt", "previous.pt"
KINDS: dict[str, Any] = {
    **dict.fromkeys(("model", "optimizer", "scaler", "options"), dict),
    "ema": (dict, NoneType),
    "sums": torch.Tensor,
    "epoch": int,
    "step": int,
    "best": float,
    "history": list,
}
"""Entries of a checkpoint, with their types."""


def save_state(state: dict[str, Any], directory: Path) -> None:
    """Writes ``last.pt`` in one step. The old ``last.pt`` is copied to ``previous.pt`` before.

    There is a complete ``last.pt`` at any moment, should the run be killed.

    Raises:
        OSError: If the disk is full. The old checkpoints are still there.
    """
    try:
        with replacing(directory / LAST) as file:
            torch.save(state, file)
            if (directory / LAST).exists():
                with replacing(directory / PREVIOUS) as copy:
                    shutil.copyfile(directory / LAST, copy)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError on a full disk
        raise OSError(f"{directory / LAST} could not be written, older ones are kept: {error}") from error


def load_state(directory: Path, processes: Processes) -> dict[str, Any] | None:
    """Reads the last checkpoint that is not damaged. Returns None if there are no checkpoints.

    Raises:
        ValueError: If there are checkpoints, but none can be read.
    """
    files = [directory / name for name in (LAST, PREVIOUS) if (directory / name).exists()]
    broken = []
    for file in files:
        try:
            state = read_state(file)
        except ValueError as error:
            print(f"warning: {error}", file=sys.stderr)
            broken.append(file)
            continue
        processes.wait()  # until all have read
        if broken and processes.leader:  # it must never replace the good one
            broken[0].rename(broken[0].with_suffix(".broken"))
        return state
    if files:
        raise ValueError(f"no checkpoint in {directory} can be read: start anew with another --output")
    return None


def read_state(file: Path) -> dict[str, Any]:
    """Reads one checkpoint.

    Raises:
        ValueError: If the file is missing, cut short, damaged, or no checkpoint.
    """
    try:
        with zipfile.ZipFile(file) as archive:  # torch does not compare the checksums
            damaged = archive.testzip()
        state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"there is no file {file}") from None
    except Exception as error:  # torch may raise anything on another kind of file
        raise ValueError(f"{file} cannot be read: it is damaged, or no checkpoint of this trainer") from error
    if damaged is not None:
        raise ValueError(f"{file} cannot be read: {damaged} in it is damaged")
    if not isinstance(state, dict) or not all(
        isinstance(state.get(name), kind) for name, kind in KINDS.items()
    ):
        raise ValueError(f"{file} cannot be read: it is no checkpoint of this trainer, or damaged")
    return state


@contextmanager
def alone(directory: Path, processes: Processes) -> Iterator[None]:
    """Keeps other trainers from writing into the directory. Removes the partial files of a killed trainer.

    Raises:
        ValueError: In all processes, if another trainer is writing there.
    """
    lock = FileLock(directory / ".lock", timeout=0)
    taken = False
    if processes.leader:
        try:
            lock.acquire()
        except Timeout:
            taken = True
        except (NotImplementedError, OSError):  # a file system without locks
            pass
    if processes.any(taken):
        raise ValueError(
            f"another trainer is writing into {directory}: wait for it, or take another --output"
        )
    try:
        if processes.leader:
            for folder in ("", "best", "maps"):
                for part in (directory / folder).glob(f".{'[0-9a-f]' * 32}.part"):
                    part.unlink(missing_ok=True)
        yield
    finally:
        lock.release()
