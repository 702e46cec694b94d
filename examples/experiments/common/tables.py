"""Makes the tables of the pages, in Markdown."""

import statistics
from collections.abc import Callable, Iterable, Sequence


def table(rows: Sequence[Sequence[object]]) -> str:
    """Makes a table in Markdown. The first row is its head."""
    head, *body = ([str(cell) for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))


def numbers(values: Iterable[float]) -> list[str]:
    """Writes each value with three digits behind the point."""
    return [f"{value:.3f}" for value in values]


def mean_and_worst(values: Sequence[float], worst: Callable[[Sequence[float]], float] = min) -> str:
    """Writes the mean and the worst of a value over the seeds."""
    return f"{statistics.mean(values):.3f} / {worst(values):.3f}"
