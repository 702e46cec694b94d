"""Compares stages of the attention branch, and writes docs/stages.md: what each costs and what it is worth.

    python examples/experiments stages --jobs 2 --seeds 3

Repeats the experiment behind docs/explanations.md, with other stages in place of the copy. Twenty minutes on
two CPU cores that support bfloat16. Complete runs are not run again.
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
    """Takes the channels of the features, and returns a stage."""

    def network(self, channels: int) -> ABN:
        return abn_cifar_resnet(20, in_channels=channels, **self._all_arguments(FEATURES))

    def large(self) -> ABN:
        """Builds the network for ImageNet. Behind a narrow stage it has as few responses as a light one."""
        narrow = {} if self.make is None else {"response_channels": LARGE_FEATURES // 8}
        return wrap_backbone(LARGE, **self._all_arguments(LARGE_FEATURES), **narrow, num_classes=1000)

    def _all_arguments(self, features: int) -> dict:
        return self.arguments if self.make is None else {**self.arguments, "stage": self.make(features)}


def separable(features: int) -> nn.Module:
    """Builds a 1×1 convolution to an eighth of the channels, at least 32, and a depth-wise 3×3 one."""
    width = max(features // 8, 32)
    return nn.Sequential(
        Conv2dNormActivation(features, width, kernel_size=1),
        Conv2dNormActivation(width, width, kernel_size=3, groups=width),
    )


def narrow(features: int) -> nn.Module:
    """Builds a 1×1 convolution to an eighth of the channels, at least 16, and a full 3×3 convolution."""
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
        "1×1 convolution to an eighth, with 4 responses for the 10 classes",
        "",
        {"stage": "light", "response_channels": 4},
    ),
    StageCandidate("separable", "1×1 convolution to an eighth, and a depth-wise 3×3 one", "", make=separable),
    StageCandidate("narrow", "1×1 convolution to an eighth, and a full 3×3 one", "", make=narrow),
)


def cost_table() -> str:
    """Makes the table of FLOPs and parameters of ResNet-50 with each stage, over those of the backbone."""
    networks = {stage.title: stage.large() for stage in STAGES if "response_channels" not in stage.arguments}
    plain = networks[COPY.title]
    backbone = size(nn.Sequential(plain.feature_extractor, plain.perception_branch.tail))
    rows = [["stage", "FLOPs", "parameters"]]
    for title, network in networks.items():
        rows.append([title, *numbers(ratios(size(network), backbone))])
    return table(rows)


def size(network: nn.Module) -> tuple[int, int]:
    """Counts floating-point operations for one image of 224 × 224 pixels, and parameters."""
    network = network.to("meta").eval()
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 224, 224, device="meta"))
    return counter.get_total_flops(), sum(parameter.numel() for parameter in network.parameters())


def page(directory: Path, seeds: int, epochs: int) -> str:
    """Returns the page, from the logs."""

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

The attention branch runs a *stage* before its heads. In the paper the stage is a copy of the backbone's last
stage, at stride 1. It nearly doubles the arithmetic of a ResNet-50. This page compares it with other stages.
Written by `python examples/experiments stages` from the logs of its runs: {versions}, {machine}.

## What it costs

FLOPs and parameters of ResNet-50 for ImageNet with an attention branch, over those of the backbone alone. For
the time see [performance.md](performance.md).

{cost}

## What its maps are worth

ResNet-20 for CIFAR, {epochs} epochs, AdamW, batches of {batch}, bfloat16, {seeds} seeds. Each cell: mean /
worst seed. [explanations.md](explanations.md) describes the tasks and the columns, and has the figures of
Grad-CAM of the plain network. The features of this network have 32 channels, too few for an eighth of them.
So here the stages with a 1×1 convolution are 32 channels wide, or 16 if a full 3×3 convolution follows.

Digits among clutter:

{gray}

Colored digits beside a square that betrays some:

{colored}

## What came of it

- With the light stage, or with none, networks are as accurate as with the copy, within the spread of the
  seeds. Their maps point at the digit as often, and hold more of their energy on it. On the colored digits
  the copy is ahead of both in the insertion score.
- A 3×3 convolution behind the 1×1 convolution does not pay, depth-wise or full. On the colored digits the
  network is less accurate with it. So `"light"` has none.
- With fewer responses than classes, accuracy stays, but the map suffers. It points beside the digit a little
  more often, and networks of two seeds agree less on where they looked. `"light"` has as many responses as
  classes only up to its own width, an eighth of the features' channels. If you have more classes, set
  `response_channels=` to their number: the map is better again, for the FLOPs of a branch without a stage.
- These are few seeds, and small networks on small tasks. Their features see the whole digit before the split.
  Where the last stage has more to add, a light branch may be less accurate than a copy: compare the attention
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
