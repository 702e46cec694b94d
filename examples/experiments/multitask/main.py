"""Trains networks with a map per task, and writes docs/multitask.md with its picture.

    python examples/experiments multitask --jobs 2

ResNet-20 learns images of several digits (experiments/tasks/several_digits.py): is there a 0, a 1, ..., a 9,
and what is their sum? Each network has five seeds and the same budget. Also measured is what the passes of
all tasks cost. An hour on two CPU cores that support bfloat16. Complete runs are not run again.
"""

from functools import partial
from pathlib import Path

from abn.saving import replacing
from experiments.common.runs import logged, options, run_all, write_text
from experiments.multitask.cost import measure
from experiments.multitask.page import page, picture
from experiments.multitask.runs import KINDS, run


def main() -> None:
    arguments = options(__doc__.splitlines()[0], Path("runs/multitask"))
    seeds, epochs, directory = range(arguments.seeds), arguments.epochs, arguments.directory
    run_all(
        [partial(run, kind, seed, epochs, directory) for kind in (None, *KINDS) for seed in seeds],
        arguments.jobs,
    )
    costs = logged(directory / "cost.json", measure)
    with replacing(arguments.output / "multitask.png") as file:
        picture(directory).save(file, format="png")
    write_text(arguments.output / "multitask.md", page(directory, len(seeds), epochs, costs))
