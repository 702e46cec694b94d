"""Puts the logits of one image into words: the five likeliest classes, or the value of each task."""

from collections.abc import Sequence

from torch import Tensor


def is_of_classes(logits: Tensor, attention_maps: Tensor) -> bool:
    """Tells whether logits are scores of the classes of one task: (K,) with K > 1, and a single map."""
    return logits.ndim == 1 and len(logits) > 1 and len(attention_maps) == 1


def top5(logits: Tensor) -> list[tuple[int, float]]:
    """Returns the numbers and probabilities of the five likeliest classes, from logits (K,)."""
    shares, numbers = logits.softmax(dim=0).topk(min(5, len(logits)))
    return list(zip(numbers.tolist(), shares.tolist(), strict=True))


def task_values(logits: Tensor) -> list[tuple[int | None, float]]:
    """Returns for each task its likeliest class and the probability, from (K, T); or None and its value."""
    if logits.ndim == 1:
        return [(None, value) for value in logits.tolist()]
    shares, numbers = logits.softmax(dim=0).max(dim=0)
    return list(zip(numbers.tolist(), shares.tolist(), strict=True))


def task_texts(logits: Tensor) -> list[str]:
    """Returns :func:`task_values` as texts: ``"0.731"``, or ``"2 (73 %)"`` for class 2."""
    return [
        f"{value:.3g}" if number is None else f"{number} ({100 * value:.0f} %)"
        for number, value in task_values(logits)
    ]


def names_of(logits: Tensor, names: Sequence[str] | None, *, tasks: bool = False) -> Sequence[str]:
    """Returns the names of the classes or tasks, or their numbers if the names are not known."""
    count, kind = logits.shape[-1], "task" if tasks else "class"
    return names if names and len(names) == count else [f"{kind} {number}" for number in range(count)]


def label_of(image: str, classes: Sequence[str] | None) -> str | None:
    """Returns the name of the folder of an image, if it is the name of a class: "cat" of ``"cat/1.jpg"``."""
    folder, *others = image.split("/")
    return folder if others and folder in (classes or ()) else None
