"""Compares small vision transformers with and without an attention branch; writes docs/transformers.md.

    python examples/experiments transformers --seeds 2 --epochs 5 --jobs 2

Two hours on two CPU cores. Complete runs are not run again.
"""

from functools import partial
from pathlib import Path

from experiments.common.runs import options, run_all, write_text
from experiments.transformers.page import page
from experiments.transformers.runs import KINDS, POOLS, directory_of, run


def main() -> None:
    arguments = options(__doc__.splitlines()[0], Path("runs/transformers"))
    directory, seeds, epochs = arguments.directory, arguments.seeds, arguments.epochs
    work = [
        partial(run, pool, kind, seed, epochs, directory_of(directory, pool, kind, seed))
        for seed in range(seeds)
        for pool in POOLS
        for kind in ("plain", *KINDS)
    ]
    run_all(work, arguments.jobs)
    write_text(arguments.output / "transformers.md", page(directory, seeds, epochs))
