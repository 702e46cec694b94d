"""What is kept of each explained image: in a table, and to go on after an interruption."""

import base64
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from abn.saving import replacing
from abn.visualize.predictions import is_of_classes, label_of, names_of, task_values, top5

THUMBNAIL = 160
"""Pixels of the longer side of an image on the page."""


@dataclass(frozen=True)
class Entry:
    """What is known of one image."""

    image: str
    """Path of the image within its folder, with forward slashes."""
    changed: float = 0.0
    """When the file was changed last, in seconds, to see whether it is still the one that was explained."""
    label: str | None = None
    """The class after which the image's folder is named."""
    answers: list[tuple[str, float]] = field(default_factory=list)
    """Name and probability of the five likeliest classes; or name and value of each task."""
    of_tasks: bool = False
    """Whether the answers are those of tasks."""
    statistics: dict[str, float] = field(default_factory=dict)
    """Statistics of the map, see :func:`statistics_of`."""
    size: tuple[int, ...] = ()
    """Number of maps, their height and width."""
    maps: str = ""
    """The maps as bytes, 0 to 255, in base64."""
    thumbnail: str = ""
    """A small view of the image as JPEG, in base64."""
    error: str | None = None
    """Why there is nothing else."""

    @property
    def prediction(self) -> str | None:
        return self.answers[0][0] if self.answers and not self.of_tasks else None

    @property
    def correct(self) -> bool | None:
        """Whether the prediction is the label. None if one of both is not known."""
        return None if None in (self.label, self.prediction) else self.label == self.prediction


def entry_of(
    image: str,
    changed: float,
    view: Image.Image,
    logits: Tensor,
    maps: Tensor,
    shown: Tensor,
    classes: Sequence[str] | None,
) -> Entry:
    """Makes the entry of an image.

    Args:
        image: Path of the image within its folder.
        changed: When the file was changed last.
        view: The part of the image that the network sees.
        logits: (K,), (T,) or (K, T).
        maps: (T, h, w), of any range.
        shown: The maps as they are to be shown, (T, h, w), in [0, 1].
        classes: Names of the classes or tasks, if they are known.
    """
    of_classes = is_of_classes(logits, maps)
    names = names_of(logits, classes, tasks=not of_classes)
    answers = top5(logits) if of_classes else enumerate(value for _, value in task_values(logits))
    file = io.BytesIO()
    small = view.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    small.save(file, "jpeg", quality=75)
    values = (shown * 255).round().to(torch.uint8)
    return Entry(
        image,
        changed,
        label_of(image, classes) if of_classes else None,
        [(names[number], value) for number, value in answers],
        not of_classes,
        statistics_of(maps[0]) if len(maps) == 1 else {},
        tuple(values.shape),
        base64.b64encode(values.numpy().tobytes()).decode(),
        base64.b64encode(file.getvalue()).decode(),
    )


def statistics_of(attention_map: Tensor) -> dict[str, float]:
    """Returns statistics of a map (h, w): its mean, the share of it above one half of its maximum, its peak.

    The peak is given in shares of the width and height: x from the left and y from the top, at the centre of
    the highest pixel.
    """
    height, width = attention_map.shape
    row, column = divmod(int(attention_map.argmax()), width)
    return {
        "map_mean": attention_map.mean().item(),
        "map_area": (attention_map > attention_map.max() / 2).float().mean().item(),
        "peak_x": (column + 0.5) / width,
        "peak_y": (row + 0.5) / height,
    }


def write_table(path: Path, entries: Sequence[Entry]) -> None:
    """Writes ``report.csv``: a row for each image."""
    rows = [_row(entry) for entry in entries]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _row(entry: Entry) -> dict[str, Any]:
    row: dict[str, Any] = {"image": entry.image, "label": entry.label}
    if entry.of_tasks:
        row |= dict(entry.answers)
    else:
        row |= {"prediction": entry.prediction, "correct": entry.correct}
        for rank, (name, share) in enumerate(entry.answers, start=1):
            row |= {f"class_{rank}": name, f"probability_{rank}": share}
    return {**row, **entry.statistics, "error": entry.error}


class Journal:
    """The entries of a run that may be interrupted, in a file with a line for each.

    Args:
        path: The file. Its lines are read if it belongs to this run.
        run: What makes two runs equal: the network and the options.
    """

    def __init__(self, path: Path, run: dict[str, Any]) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        head = json.dumps(run, sort_keys=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        if lines[:1] != [head]:
            path.write_text(head + "\n", encoding="utf-8")
            return
        for line in lines[1:]:
            try:
                values = json.loads(line)
            except ValueError:  # the last line of a run that was killed
                continue
            entry = Entry(**{**values, "answers": [tuple(answer) for answer in values["answers"]]})
            self.entries[entry.image] = entry

    def add(self, entry: Entry) -> None:
        """Keeps an entry. One with an error is not written, so that the next run tries the image again."""
        self.entries[entry.image] = entry
        if entry.error is None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(entry)) + "\n")
