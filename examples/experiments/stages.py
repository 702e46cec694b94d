"""Compares stages of the attention branch, and writes docs/stages.md: what each costs and what it is worth.

    python examples/experiments stages --jobs 2 --seeds 3

The experiment behind docs/explanations.md, with other stages in place of the copy. Twenty minutes on two CPU
cores that know bfloat16. Runs that are complete are not run again.
"""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import Conv2dNormActivation

from abn import ABN, wrap_backbone
from abn.models import abn_cifar_resnet
from experiments.common.runs import options, run_all, write_text
from experiments.common.tables import numbers, table
from experiments.common.timing import ratios
from experiments.common.training import BATCH
from experiments.explanations.candidates import Candidate
from experiments.explanations.page import RESULTS_HEAD, results_rows, rows
from experiments.explanations.runs import directory_of, run
from experiments.tasks.located_digits import COLORED, GRAY, Task

FEATURES = 32  # channels of ResNet-20 at the split
LARGE, LARGE_FEATURES = "torchvision/resnet50", 1024


@dataclass(frozen=True)
class StageCandidate(Candidate):
    """A network with another stage in its attention branch."""

    make: Callable[[int], nn.Module] | None = None
    """From the channels of the features to a stage of one's own."""

    def network(self, channels: int) -> ABN:
        return abn_cifar_resnet(20, in_channels=channels, **self._all_arguments(FEATURES))

    def large(self) -> ABN:
        """The same for ImageNet; behind a narrow stage with as few responses as a light one has."""
        narrow = {} if self.make is None else {"response_channels": LARGE_FEATURES // 8}
        return wrap_backbone(LARGE, **self._all_arguments(LARGE_FEATURES), **narrow, num_classes=1000)

    def _all_arguments(self, features: int) -> dict:
        return self.arguments if self.make is None else {**self.arguments, "stage": self.make(features)}


def separable(features: int) -> nn.Module:
    """A 1×1 convolution to an eighth of the channels, 32 at least, and a depth-wise 3×3 one."""
    width = max(features // 8, 32)
    return nn.Sequential(
        Conv2dNormActivation(features, width, kernel_size=1),
        Conv2dNormActivation(width, width, kernel_size=3, groups=width),
    )


def narrow(features: int) -> nn.Module:
    """A 1×1 convolution to an eighth of the channels, 16 at least, and a 3×3 one."""
    width = max(features // 8, 16)
    return nn.Sequential(
        Conv2dNormActivation(features, width, kernel_size=1),
        Conv2dNormActivation(width, width, kernel_size=3),
    )


COPY = StageCandidate("copy", 'a copy of the last stage at stride 1, `"copy"`', "", {"stage": "copy"})
NONE = StageCandidate("none", 'none, `"none"`', "", {"stage": "none"})
LIGHT = StageCandidate("light", '1×1 convolution to an eighth, `"light"`', "", {"stage": "light"})
STAGES = (
    COPY,
    NONE,
    LIGHT,
    StageCandidate(
        "light_4",
        "the same, with 4 responses for the 10 classes",
        "",
        {"stage": "light", "response_channels": 4},
    ),
    StageCandidate("separable", "1×1 convolution to an eighth, and a depth-wise 3×3 one", "", make=separable),
    StageCandidate("narrow", "1×1 convolution to an eighth, and a full 3×3 one", "", make=narrow),
)


def cost_table() -> str:
    """Arithmetic and weights of ResNet-50 for ImageNet with each stage, over those of the backbone alone."""
    networks = {stage.title: stage.large() for stage in STAGES if "response_channels" not in stage.arguments}
    plain = networks[COPY.title]
    backbone = size(nn.Sequential(plain.feature_extractor, plain.perception_branch.tail))
    rows = [["stage", "FLOPs", "parameters"]]
    for title, network in networks.items():
        rows.append([title, *numbers(ratios(size(network), backbone))])
    return table(rows)


def size(network: nn.Module) -> tuple[int, int]:
    """Floating-point operations for one image of 224 × 224 pixels, and parameters."""
    network = network.to("meta").eval()
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 224, 224, device="meta"))
    return counter.get_total_flops(), sum(parameter.numel() for parameter in network.parameters())


def page(directory: Path, seeds: int, epochs: int) -> str:
    """The page, from the logs."""

    def results(task: Task) -> str:
        entries = [row for stage in STAGES for row in rows(directory, task, stage, seeds)]
        return table([RESULTS_HEAD, *results_rows(entries)])

    return PAGE.format(
        versions=", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision")),
        machine=platform.machine(),
        epochs=epochs,
        batch=BATCH,
        seeds=seeds,
        cost=cost_table(),
        gray=results(GRAY),
        colored=results(COLORED),
    )


PAGE = """\
# What the attention branch's stage is worth

Written by `python examples/experiments stages` from the logs of its runs: {versions}, {machine}.

The attention branch runs a *stage* before its heads. In the paper it is a copy of the backbone's last stage,
at stride 1, and nearly doubles the arithmetic of a ResNet-50. Of what could take its place:

## What it costs

ResNet-50 for ImageNet with the branch, over the backbone alone. The time that it takes:
[performance.md](performance.md).

{cost}

## What its maps are worth

ResNet-20 for CIFAR, {epochs} epochs, AdamW, batches of {batch}, bfloat16, {seeds} seeds. The tasks and the
columns are those of [explanations.md](explanations.md), where the plain network and Grad-CAM are too. Each
cell: mean / worst seed. The features have 32 channels, too few for an eighth of them: the stages with a 1×1
convolution are 32 channels wide here, the one with a full 3×3 convolution 16.

Digits among clutter:

{gray}

Colored digits beside a square that betrays some:

{colored}

## What came of it

- The light stage and none at all have the copy's accuracy within what the seeds differ by, point at the digit
  as often, and hold more of the map on it. The copy is ahead in the insertion score on the colored digits.
- A 3×3 convolution behind the narrow one, depth-wise or full, does not pay: less accurate on the colored
  digits than without, and no steadier. So `"light"` has none.
- Fewer responses than classes leave the accuracy, and cost the map: it points beside the digit a little more
  often, and two networks that differ in their seed alone agree less on where they looked. `"light"` has as
  many responses as classes only up to its own width, an eighth of the features' channels; with more classes,
  `response_channels=` their number has that price back, for the FLOPs of a branch without a stage.
- These are few seeds, and small networks on small tasks, whose features see the whole digit before the split.
  Where the last stage has more to add, a light branch may well know less than a copy: compare the attention
  branch's own accuracy on your data.
"""


def main() -> None:
    arguments = options(__doc__.splitlines()[0], Path("runs/stages"))
    directory, seeds = arguments.directory, arguments.seeds
    runs = [(candidate, task) for candidate in STAGES for task in (GRAY, COLORED)]
    work = [
        partial(run, candidate, task, seed, arguments.epochs, directory_of(directory, candidate, task, seed))
        for seed in range(seeds)
        for candidate, task in runs
    ]
    run_all(work, arguments.jobs)
    write_text(arguments.output / "stages.md", page(directory, seeds, arguments.epochs))
