"""Compares ways to make an attention map, and writes docs/explanations.md with its pictures.

    python examples/experiments explanations --jobs 2

ResNet-20 learns two tasks in which the place of the object is known, with five seeds and the same budget for
each way. Networks that look at the wrong thing are corrected by edited maps. Two hours on two CPU cores that
support bfloat16. Complete runs are not run again.
"""

import json
from functools import partial
from pathlib import Path

import torch
from finetune_attention import WEIGHTS, experiment

from abn.saving import replacing
from experiments.common.runs import logged, options, run_all, write_text
from experiments.explanations.candidates import CANDIDATES, DEFAULT, OFFICIAL
from experiments.explanations.page import TASKS, page
from experiments.explanations.pictures import choose, comparison
from experiments.explanations.runs import cost, directory_of, run, stored


def main() -> None:
    arguments = options(__doc__.splitlines()[0], Path("runs/explanations"))
    seeds, epochs, directory = range(arguments.seeds), arguments.epochs, arguments.directory
    work = [
        partial(run, candidate, task, seed, epochs, directory_of(directory, candidate, task, seed))
        for candidate in (None, *CANDIDATES)
        for task in TASKS
        for seed in seeds
    ]
    corrections = [directory / f"corrected_{seed}.json" for seed in seeds]
    for seed, file in enumerate(corrections):
        work.append(partial(logged, file, partial(experiment, seed, epochs, epochs, WEIGHTS)))
    run_all(work, arguments.jobs)
    torch.set_num_threads(1)
    ratios = logged(directory / "cost.json", partial(cost, DEFAULT, OFFICIAL, next(iter(TASKS))))

    for task in TASKS:
        maps = {"ABN": stored(directory_of(directory, DEFAULT, task, 0))[1]["ABN"]}
        maps |= stored(directory_of(directory, None, task, 0))[1]
        scenes = task.test_scenes()
        picture = comparison(scenes, maps, choose(scenes, maps["ABN"]))
        with replacing(arguments.output / f"explanations_{task.name}.png") as file:
            picture.save(file, format="png")
    results = [json.loads(file.read_text(encoding="utf-8")) for file in corrections]
    write_text(arguments.output / "explanations.md", page(directory, len(seeds), epochs, results, ratios))
