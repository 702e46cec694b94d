"""The state of a run on disk: the last one, and the one before it."""

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import torch

from abn.saving import replacing

LAST, PREVIOUS = "last.pt", "previous.pt"


def save_checkpoint(state: dict[str, Any], directory: Path) -> None:
    """Writes ``last.pt`` in one step; what was there becomes ``previous.pt``.

    Raises:
        OSError: If there is no room. What was there before is still there.
    """
    try:
        with replacing(directory / LAST) as file:
            torch.save(state, file)
            with file.open("rb") as written:
                os.fsync(written.fileno())  # the last one gives way only to one that is whole
            if (directory / LAST).exists():
                (directory / LAST).replace(directory / PREVIOUS)
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter on a full disk
        raise OSError(f"{directory / LAST} could not be written, older ones are kept: {error}") from error


def load_checkpoint(directory: Path) -> dict[str, Any] | None:
    """Reads the last state that is whole; none if there never was one.

    One that cannot be read is renamed.

    Raises:
        ValueError: If there are files, but none can be read.
    """
    files = [directory / name for name in (LAST, PREVIOUS) if (directory / name).exists()]
    for file in files:
        try:
            return read_checkpoint(file)
        except ValueError as error:
            print(f"warning: {error}", file=sys.stderr)
            file.rename(file.with_suffix(".broken"))  # so that it never takes the place of a whole one
    if files:
        raise ValueError(f"no checkpoint in {directory} can be read: start anew with another --output")
    return None


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Reads one file.

    Raises:
        ValueError: If it was cut short, or is no such file.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{file} cannot be read: {reason}") from error
    if not isinstance(state, dict) or "history" not in state:
        raise ValueError(f"{file} is no checkpoint of this trainer")
    return state
