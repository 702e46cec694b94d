"""What the page shows of the network's answers, and what is kept of them with an edit."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from abn.predictions import task_values, top5


def rows_of(before: Tensor, after: Tensor, names: Sequence[str], of_classes: bool) -> list[dict[str, Any]]:
    """Compares two answers.

    Args:
        before: Logits (K,), (T,) or (K, T), of the network's own map.
        after: Logits of the edited map.
        names: Names of the classes or tasks.
        of_classes: Whether the logits are those of the classes of one task.

    Returns:
        One row for each of the five likeliest classes before, and for each that came among them; or for each
        task. A row has the ``number`` and ``name`` of the class or task, and ``before`` and ``after``, each
        with a ``value`` and, for tasks with classes, the number of the likeliest class.
    """
    if not of_classes:
        pairs = zip(names, task_values(before), task_values(after), strict=True)
        return [
            {
                "number": number,
                "name": name,
                "before": {"class": old[0], "value": old[1]},
                "after": {"class": new[0], "value": new[1]},
            }
            for number, (name, old, new) in enumerate(pairs)
        ]
    shown = dict.fromkeys(number for logits in (before, after) for number, _ in top5(logits))
    shares = before.softmax(dim=0), after.softmax(dim=0)
    return [
        {
            "number": number,
            "name": names[number],
            "before": {"value": shares[0][number].item()},
            "after": {"value": shares[1][number].item()},
        }
        for number in shown
    ]


def summary_of(logits: Tensor, names: Sequence[str], of_classes: bool) -> list[Sequence[Any]]:
    """Returns the five likeliest classes with their probabilities; or each task with its value."""
    if of_classes:
        return [(names[number], share) for number, share in top5(logits)]
    return [(name, *value) for name, value in zip(names, task_values(logits), strict=True)]
