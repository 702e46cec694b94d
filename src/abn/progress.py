"""Shows progress: as a bar in a terminal, elsewhere as a line per minute."""

import sys
from typing import Any, TextIO

from tqdm import tqdm

INTERVAL = 0.5 if sys.stderr.isatty() else 60.0
"""Seconds between two states that are shown."""


class _Lines:
    """Writes each state of a bar as a line of its own, into a log."""

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, text: str) -> None:
        if line := text.strip():
            self.file.write(f"{line}\n")

    def flush(self) -> None:
        self.file.flush()


def progress(total: int, unit: str, **options: Any) -> Any:
    """Makes a bar, to be used in a ``with`` and moved on by ``update(count)``.

    Args:
        total: Number of units.
        unit: Name of the unit, with a space before it.
        **options: Other arguments of tqdm.
    """
    if not sys.stderr.isatty():
        options |= {"file": _Lines(sys.stderr), "maxinterval": INTERVAL, "ncols": 100}
    return tqdm(total=total, unit=unit, mininterval=INTERVAL, **options)
