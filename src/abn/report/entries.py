"""What is kept of each explained image: in a table, and to go on after an interruption."""

import base64
import contextlib
import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from abn.predictions import is_of_classes, label_of, names_of, task_values, top5
from abn.saving import replacing

THUMBNAIL = 160
"""Pixels of the longer side of an image on the page."""


class Answer(NamedTuple):
    """A class and its probability; or a task, and its value or the probability of its likeliest class."""

    name: str
    value: float
    number: int | None = None
    """Number of the likeliest class of a task with classes."""


@dataclass(frozen=True)
class Entry:
    """What is known of one image."""

    image: str
    """Path of the image within its folder, with forward slashes."""
    stamp: tuple[int, int] = (0, 0)
    """When the file was changed last, in nanoseconds, and its size in bytes, to see if it was replaced."""
    picture: str | None = None
    """Name of its picture, if it has one."""
    label: str | None = None
    """The class after which the image's folder is named."""
    answers: tuple[Answer, ...] = ()
    """The five likeliest classes, or all tasks."""
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
    """Why the image could not be read, or its picture not be written."""

    @property
    def prediction(self) -> str | None:
        return self.answers[0].name if self.answers and not self.of_tasks else None

    @property
    def correct(self) -> bool | None:
        """Whether the prediction is the label. None if one of both is not known."""
        return None if None in (self.label, self.prediction) else self.label == self.prediction


def entry_of(
    image: str,
    stamp: tuple[int, int],
    view: Image.Image,
    logits: Tensor,
    maps: Tensor,
    shown: Tensor,
    classes: Sequence[str] | None,
) -> Entry:
    """Makes the entry of an image.

    Args:
        image: Path of the image within its folder.
        stamp: State of its file.
        view: The part of the image that the network sees.
        logits: (K,), (T,) or (K, T).
        maps: (T, h, w), of any range.
        shown: The maps that the page shows, (N, h, w), in [0, 1]: those of the tasks, or of several methods.
        classes: Names of the classes or tasks, if they are known.
    """
    of_classes = is_of_classes(logits, maps)
    names = names_of(logits, classes, tasks=not of_classes)
    if of_classes:
        answers = [Answer(names[number], share) for number, share in top5(logits)]
    else:
        values = zip(names, task_values(logits), strict=True)
        answers = [Answer(name, value, number) for name, (number, value) in values]
    file = io.BytesIO()
    small = view.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    small.save(file, "jpeg", quality=75)
    return Entry(
        image,
        stamp,
        label=label_of(image, classes) if of_classes else None,
        answers=tuple(answers),
        of_tasks=not of_classes,
        statistics=statistics_of(maps[0]) if len(maps) == 1 else {},
        size=tuple(shown.shape),
        maps=base64.b64encode((shown * 255).round().to(torch.uint8).numpy().tobytes()).decode(),
        thumbnail=base64.b64encode(file.getvalue()).decode(),
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
    known = next((entry for entry in entries if entry.answers), Entry(""))
    statistics = list(known.statistics)
    rows: list[list[Any]] = [["image", "label", *_columns(known), *statistics, "error"]]
    for entry in entries:
        values = [entry.statistics.get(name) for name in statistics]
        rows.append([entry.image, entry.label, *_cells(entry, known), *values, entry.error])
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def _columns(known: Entry) -> list[str]:
    """Returns the names of the columns of the answers."""
    if not known.of_tasks:
        ranks = range(1, len(known.answers) + 1)
        columns = [f"{what}_{rank}" for rank in ranks for what in ("class", "probability")]
        return ["prediction", "correct", *columns] if known.answers else []
    count = Counter(answer.name for answer in known.answers)
    taken = {"image", "label", "error", *known.statistics}
    columns = []
    for number, answer in enumerate(known.answers):
        unique = count[answer.name] == 1 and answer.name not in taken
        name = answer.name if unique else f"{answer.name} (task {number})"
        columns += [name] if answer.number is None else [f"{name}: class", f"{name}: probability"]
    return columns


def _cells(entry: Entry, known: Entry) -> list[Any]:
    if not entry.answers:
        return [None] * len(_columns(known))
    if entry.of_tasks:
        pairs = [(answer.number, answer.value) for answer in entry.answers]
        return [cell for number, value in pairs for cell in ([value] if number is None else [number, value])]
    answers = [cell for answer in entry.answers for cell in (answer.name, answer.value)]
    return [entry.prediction, entry.correct, *answers]


def _is_within(name: str) -> bool:
    """Tells whether a path lies within the folder to which it is relative."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


class Journal:
    """The entries of a run that may be interrupted, in a file with a line for each.

    Args:
        path: The file. Lines of other runs in it are passed over.
        run: What makes two runs equal: the network, the images and the options.
    """

    def __init__(self, path: Path, run: dict[str, Any]) -> None:
        self.path = path
        self.run = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:16]
        self.entries: dict[str, Entry] = {}
        self.pictures: set[str] = set()
        """Names of all pictures that this run or another wrote into the folder."""
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        for line in text.splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):  # a line cut short
                values = json.loads(line)
                picture = values["entry"]["picture"]
                if picture is not None and _is_within(picture):
                    self.pictures.add(picture)
                if values["run"] == self.run:
                    answers = tuple(Answer(*answer) for answer in values["entry"].pop("answers"))
                    stamp = tuple(values["entry"].pop("stamp"))
                    entry = Entry(**values["entry"], stamp=stamp, answers=answers)
                    self.entries[entry.image] = entry

    def add(self, entry: Entry) -> None:
        """Keeps an entry. One with an error is not written, so that the next run tries the image again."""
        self.entries[entry.image] = entry
        if entry.picture is not None:
            self.pictures.add(entry.picture)
        if entry.error is None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(self._line(entry))

    def close(self, entries: Sequence[Entry]) -> None:
        """Keeps these entries alone, and removes the pictures that are not theirs."""
        for outdated in self.pictures - {entry.picture for entry in entries}:
            with contextlib.suppress(OSError):
                (self.path.parent / outdated).unlink()
        with replacing(self.path) as part:
            lines = [self._line(entry) for entry in entries if entry.error is None]
            part.write_text("".join(lines), encoding="utf-8")

    def _line(self, entry: Entry) -> str:
        return json.dumps({"run": self.run, "entry": asdict(entry)}) + "\n"
