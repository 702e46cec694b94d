"""Tables in Markdown."""

import statistics
from collections.abc import Callable, Iterable, Sequence


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first row is its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], f"|{' --- |' * len(rows[0])}", *lines[1:]])


def numbers(values: Iterable[float]) -> list[str]:
    return [f"{value:.3f}" for value in values]


def mean_and_worst(values: Sequence[float], worst: Callable[[Sequence[float]], float] = min) -> str:
    """Of some seeds."""
    return f"{statistics.mean(values):.3f} / {worst(values):.3f}"
