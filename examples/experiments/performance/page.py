"""Writes the page on what a map costs, from the logs."""

import statistics
from dataclasses import dataclass
from pathlib import Path

from experiments.common.tables import table
from experiments.common.timing import ratios
from experiments.performance.contenders import BRANCHED, METHODS, NETWORKS, SCORE_CAM, TITLES, Network
from experiments.performance.logs import Logs, Times, best, fastest_method, median
from experiments.performance.training import TRAINED_FORMS


@dataclass(frozen=True)
class Goal:
    """A goal for the time of one network over the time of another, each in a form; maybe over their FLOPs."""

    title: str
    one: tuple[str, str]
    other: tuple[str, str]
    limit: float | None = None
    over_flops: bool = False

    def values(self, times: Times, flops: float) -> list[float]:
        (row, form), (other, other_form) = self.one, self.other
        values = ratios(times[row][form], times[other][other_form])
        return [value / flops for value in values] if self.over_flops else values


GOALS = (
    Goal("same function / straightforward, eager", ("official", "eager"), ("straightforward", "eager"), 0.95),
    Goal(
        "same function, deployed / straightforward, eager",
        ("official", "deployed"),
        ("straightforward", "eager"),
        0.6,
    ),
    Goal(
        "same function / straightforward, deployed", ("official", "deployed"), ("straightforward", "deployed")
    ),
    Goal("light / plain, eager", ("light", "eager"), ("plain", "eager"), 1.02),
    Goal("light / plain, deployed", ("light", "deployed"), ("plain", "deployed"), 1.02),
    Goal("ABN / plain, eager, time over FLOPs", ("copy", "eager"), ("plain", "eager"), 1.1, over_flops=True),
)
FASTER = 1.3
"""The goal for explained images per second, over those of other libraries."""


def goals_table(logs: Logs) -> str:
    """Makes the table of the goals, setting by setting."""
    limits = [f" (≤ {goal.limit})" if goal.limit else "" for goal in GOALS]
    titles = [goal.title + limit for goal, limit in zip(GOALS, limits, strict=True)]
    rows = [["network, batch", *titles]]
    reached: list[list[bool]] = []
    for network in logs.networks:
        for batch in logs.batches(network):
            times, flops = logs.times(network, batch), logs.flops_ratio(network, "copy")
            values = [goal.values(times, flops) for goal in GOALS]
            rows.append([f"{network.title}, {batch}", *map(median, values)])
            reached.append(
                [
                    goal.limit is not None and round(statistics.median(value), 2) <= goal.limit
                    for goal, value in zip(GOALS, values, strict=True)
                ]
            )
    counts = [f"{sum(column)} of {len(column)}" for column in zip(*reached, strict=True)]
    cells = [count if goal.limit else "" for goal, count in zip(GOALS, counts, strict=True)]
    return table([*rows, ["**goal reached**", *cells]])


def speed_table(logs: Logs) -> str:
    """Makes the table of explained images per second, over those of the fastest other library."""
    rows = [["network, batch", "fastest other", "in the form", *(TITLES[row] for row in ("light", "copy"))]]
    reached: list[list[bool]] = []
    for network in logs.networks:
        for batch in logs.batches(network):
            times = logs.times(network, batch)
            if not any(row in times for row in METHODS):
                continue
            row, seconds = fastest_method(times)
            values = [ratios(seconds, times[ours]["deployed"]) for ours in ("light", "copy")]
            rows.append([f"{network.title}, {batch}", row, best(times[row]), *map(median, values)])
            reached.append([round(statistics.median(value), 2) >= FASTER for value in values])
    counts = [f"{sum(column)} of {len(column)}" for column in zip(*reached, strict=True)]
    return table([*rows, ["**goal reached**", "", "", *counts]])


def network_table(logs: Logs, network: Network) -> str:
    """Makes the table of every contender, relative to the eager plain backbone."""
    batches = logs.batches(network)
    arithmetic = logs.read(f"arithmetic_{network.name}")
    memory_batch = max(logs.batches(network, "memory"))
    memory = logs.read(f"memory_{network.name}_{memory_batch}")
    titles = ["", "FLOPs", "parameters", f"memory, batch {memory_batch}"]
    for batch in batches:
        titles += [f"batch {batch}: eager", "best"]
    rows = [titles]
    for row in ("plain", *BRANCHED, *METHODS):
        if row not in arithmetic:
            continue
        cells = [TITLES.get(row, row)]
        cells += [f"{arithmetic[row][k] / arithmetic['plain'][k]:.3f}" for k in ("flops", "parameters")]
        cells.append(f"{memory[row] / memory['plain']:.2f}" if row in memory else "")
        for batch in batches:
            times = logs.times(network, batch)
            plain, forms = times["plain"]["eager"], times[row]
            cells += [median(ratios(forms[form], plain)) for form in ("eager", best(forms))]
        rows.append(cells)
    return table(rows)


def training_table(logs: Logs) -> str:
    """Makes the table of a step of training, relative to the eager straightforward network."""
    rows = [
        [
            "network, batch",
            "",
            *(f"{form}: {what}" for form in TRAINED_FORMS for what in ("time", "memory")),
        ]
    ]
    for network in NETWORKS.values():
        for batch in logs.batches(network, "training"):
            times = logs.read(f"training_{network.name}_{batch}")
            memory = logs.read(f"training_memory_{network.name}_{batch}")
            straightforward = times["straightforward"]["eager"], memory["straightforward"]["eager"]
            for row in times:
                cells = [TITLES.get(row, row)]
                for form in TRAINED_FORMS:
                    if form in times[row]:
                        cells.append(median(ratios(times[row][form], straightforward[0])))
                        cells.append(f"{memory[row][form] / straightforward[1]:.2f}")
                    else:
                        cells += ["", ""]
                rows.append([f"{network.title}, {batch}", *cells])
    return table(rows)


def wrapping(logs: Logs, limit: float = 0.5) -> str:
    """Tells how many backbones of torchvision are wrapped within the limit, and which are not."""
    firsts, medians, _ = zip(*(seconds := logs.read("wrapping")).values(), strict=True)
    within = [sum(time <= limit for time in times) for times in (medians, firsts)]
    rows = [["backbone", "seconds", "the first time", "`copy.deepcopy` of it"]]
    for name, times in sorted(seconds.items(), key=lambda item: -item[1][1]):
        first, wrap, copied = (f"{time:.2f}" for time in times)
        if times[1] > limit:
            rows.append([name, wrap, first, copied])
    return (
        f"{within[0]} of {len(seconds)} within {limit} s ({within[1]} the first time), half of them in "
        f"{statistics.median(medians):.2f} s. The others took longer:\n\n{table(rows)}"
    )


def score_cam(logs: Logs) -> str:
    """Tells what Score-CAM costs, if its library was there."""
    times = logs.read("score_cam")
    if SCORE_CAM not in times:
        return ""
    ratio = statistics.median(ratios(times[SCORE_CAM]["eager"], times["plain"]["eager"]))
    return f"{SCORE_CAM}, one image, {NETWORKS['resnet18'].title}: {ratio:.0f} times the plain forward.\n"


def section(logs: Logs) -> str:
    """Returns the section about one device."""
    added = logs.read("imports")
    return SECTION.format(
        **logs.machine,
        commands="\n".join(logs.read("commands")),
        goals=goals_table(logs),
        speed=speed_table(logs),
        networks="\n\n".join(f"**{n.title}**\n\n{network_table(logs, n)}" for n in logs.networks),
        score_cam=score_cam(logs),
        training=training_table(logs),
        wrapping=wrapping(logs),
        imports=f"{statistics.median(added):.3f} s (median of {len(added)} pairs of processes)",
    )


def page(directory: Path) -> str:
    """Returns the page about all devices whose logs are there."""
    devices = [Logs(path) for path in sorted(directory.iterdir()) if (path / "machine.json").exists()]
    sections = [section(logs) for logs in devices]
    if not any(logs.machine["kind"] == "cuda" for logs in devices):
        sections.append(
            "## GPU\n\nNo GPU was at hand. On a machine with a GPU, the same command fills this section.\n"
        )
    return PAGE.format(sections="\n".join(sections))


PAGE = """\
# What a map costs

Time and memory of predictions with a map, over those of the plain backbone: networks with an attention branch
(ABNs), and Grad-CAM and other methods of other libraries. The last section tells [what
paid](#what-paid-and-what-did-not).

Written by `python examples/experiments performance` from the logs of its runs. Images have 224 × 224 pixels;
there are 1000 classes; weights are random. All contenders are timed in the same rounds, seven or more. In
each round all run once, one after another, and every other round goes in reverse. A figure is the median of
the ratios within the rounds, with their quartiles.

- **Eager**: the network without any preparation, float32, channels first. Except in training, ABNs and the
  plain backbone run under `torch.inference_mode()`.
- **Deployed**: channels last, bfloat16, compiled with the weights as constants, which folds the batch norms
  ([how](running.md#deploy)); on a GPU with CUDA graphs.
- **Best**: the fastest form. A method that asks for gradients cannot be deployed as a whole. It is tried
  eager; with batch norms folded, channels last, and no gradients before the layer that it explains; and with
  all of this in bfloat16. torch-cam's Grad-CAM is tried in one more form: the modules before that layer are
  compiled one by one too, with their weights as constants. (pytorch-grad-cam has no form in bfloat16, since
  it converts to NumPy, which has no bfloat16.)
- **ABN**: a new network, `start="new"`, with a copy of the last stage at stride 1. A network with a
  pretrained backbone has a dense stage instead; its cost is in [photos.md](photos.md#what-it-costs).
- **Straightforward**: the official network, with the K×K convolution on every pixel, before the pool. The ABN
  with `map="convolution"` computes the same function in this library's way, with the pool first.
- **FLOPs** (of one image, with the gradients where a method asks for them), **parameters** and **memory**
  (what one call adds at its peak) are over those of the plain backbone. PyTorch's counter counts the
  gradients of a grouped convolution as those of a full one. This shows in ConvNeXt and EfficientNet where a
  method asks for all gradients. Memory is measured for the networks alone, not for other libraries.

{sections}
## What paid, and what did not

- **Pool first, convolve then** saves only the arithmetic of one convolution: at most about 5 % of the FLOPs
  of the ResNets and of ConvNeXt, and 14 % for EfficientNet-B0. The branch also runs the last stage on four
  times the pixels, and only another stage saves that.
- **Channels last, bfloat16, folded batch norms** pay for every contender alike. With them the full network
  takes far less time than the eager straightforward network, but not far less than the straightforward
  network in the same form.
- **A full network**, with a copy of the last stage, takes up to twice the time of the backbone alone. It
  takes longer than Grad-CAM in its best form, except for single images on deep backbones. In return, its map
  takes part in the decision.
- **The light branch**, deployed, takes about as long as the backbone alone. Eager, its dozen small operations
  show, most of all with single images. Grad-CAM in its best form, the work of an expert, comes close to the
  light branch as batches grow, since a CPU then has nothing to do but convolutions. With single images it
  does not come close.
- **Training** channels last, compiled and in bfloat16 took half the time and half the memory on ResNets, at
  these batch sizes. With a few images, less is saved. A full network also pays for its copy of the last
  stage, as the straightforward network does. So the goals of 0.9 of the time and 0.85 of the memory are out
  of its reach. The light branch trains as fast as the backbone alone.
- **Checkpointing the stage** saves memory in training, for the time of one more forward through the stage.
- Tried by hand, not part of the script: looking for NaN in the images took longer than the light branch of a
  small backbone, so the check now looks at their sum first. Four changes brought nothing: the attention
  mechanism as one fused operation, the class activation as a matrix product, a ReLU in place in the branch,
  and leaving the attention logits out.
"""
SECTION = """\
## {device}

{machine}. {versions}.

```bash
{commands}
```

![Time of each contender over that of the plain backbone, all in their best form](performance_{kind}.png)

### The goals, setting by setting

The goals were set before anything was measured. Each cell is the time of one network over the time of
another. In the last column this ratio is divided by the ratio of FLOPs: 1 is as fast as the arithmetic allows
(goal on a GPU: 1.05).

{goals}

### Explained images per second

Images per second, with logits and map, of an ABN over those of the fastest other library, each in its best
form. The goal is 1.3 times as many.

{speed}

### Every contender

Time relative to the eager plain backbone.

{networks}

{score_cam}
### A step of training

A step includes the update by SGD. Time and memory are relative to the eager straightforward network (goals
for eager: time 0.9, memory 0.85). Memory is what the step adds at its peak to network and images: gradients,
momentum, activations. *Accelerated*: channels last, compiled, under autocast to bfloat16, as with
`--channels-last --compile --amp bfloat16` of [the trainer](training.md). Only four networks were accelerated,
since compiling takes its time.

{training}

### Before the first forward

Time of `wrap_backbone` on torchvision's classifiers, handed over as modules, the median of three calls after
the first: {wrapping}

`import abn` adds to `import torch, torchvision`: {imports}.
"""
