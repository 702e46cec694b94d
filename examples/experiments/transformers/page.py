"""Writes docs/transformers.md from the logs of the runs."""

import json
import platform
import statistics
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch

from abn import wrap_backbone
from experiments.common.runs import logged
from experiments.common.tables import mean_and_worst, numbers, table
from experiments.common.timing import in_turn, ratios
from experiments.performance.measure import flops
from experiments.transformers.runs import BATCH, KINDS, LEARNING_RATE, MEASURED, directory_of

TITLES = {
    "light": 'ABN, as `wrap_backbone` makes it (`stage="light"`)',
    "copy": 'ABN, `stage="copy"`',
    "early": 'ABN, `split="blocks.1"`',
}
TIMED = ("vit_tiny_patch16_224", "vit_small_patch16_224", "mixer_s16_224")
STAGES = ("copy", "light")


def page(directory: Path, seeds: int, epochs: int) -> str:
    """Returns the page, from the logs."""

    def figures(pool: str, kind: str) -> list[dict[str, Any]]:
        files = (directory_of(directory, pool, kind, seed) / "figures.json" for seed in range(seeds))
        return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]

    def line(pool: str, kind: str, name: str, title: str) -> list[str]:
        runs = figures(pool, kind)
        cells = [mean_and_worst([run["maps"][name][key] for run in runs]) for key in ("pointing", "energy")]
        return [title, str(len(runs)), mean_and_worst([run["accuracy"] for run in runs]), *cells]

    def results(pool: str) -> str:
        plain = figures(pool, "plain")[0]["maps"]
        rows = [line(pool, "plain", name, f"plain, {name}") for name in plain]
        rows += [line(pool, kind, "ABN", TITLES[kind]) for kind in KINDS if figures(pool, kind)]
        return table([["network, map", "seeds", "accuracy", "pointing", "energy"], *rows])

    def mean(pool: str, name: str) -> str:
        return f"{statistics.mean(run[name] for run in figures(pool, 'plain')):.3f}"

    return PAGE.format(
        versions=", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "torchcam")),
        machine=platform.machine(),
        epochs=epochs,
        batch=BATCH,
        rate=LEARNING_RATE,
        measured=MEASURED,
        pooled=results("avg"),
        token=results("token"),
        plain_accuracy=mean("avg", "accuracy"),
        wrapped=mean("avg", "wrapped"),
        wrapped_attention=mean("avg", "wrapped attention"),
        token_accuracy=mean("token", "accuracy"),
        misread=mean("token", "class token's weights on other tokens"),
        cost=table(
            [
                ["network", "stage", "FLOPs", "time", "time over FLOPs"],
                *logged(directory / "cost.json", cost),
            ]
        ),
    )


def cost() -> list[list[str]]:
    """Measures FLOPs and time of networks with a branch, over those of the plain network, as rows."""
    torch.set_num_threads(1)
    images = torch.randn(8, 3, 224, 224)
    rows = []
    for name in TIMED:
        plain = timm.create_model(name).eval()
        for stage in STAGES:
            model = wrap_backbone(plain, start="new", stage=stage).eval()
            with torch.inference_mode():
                arithmetic = flops(partial(model, images)) / flops(partial(plain, images))
                times = in_turn({"abn": partial(model, images), "plain": partial(plain, images)}, rounds=15)
            time = statistics.median(ratios(times["abn"], times["plain"]))
            rows.append([name, stage, *numbers([arithmetic, time, time / arithmetic])])
    return rows


PAGE = """\
# Vision transformers with an attention branch

A small vision transformer, trained from nothing, with an attention branch and without. Written by
`python examples/experiments transformers` from the logs of its runs: {versions}, {machine}.

**What this page cannot say**: no weights of a pretrained transformer were at hand, so that nothing here is
about pretrained transformers or photographs of many kinds of things. The networks are small, and far from
what they would reach with more training.

## The task

The products of Fashion-MNIST, 28 × 28 pixels, placed at random on a canvas of 56 × 56 pixels among four
pieces of other products. 60,000 images to train on, placed anew in each epoch, and 10,000 to test with. The
transformer has 64 patches of 7 × 7 pixels, 6 blocks of 64 channels and 2 heads. {epochs} epochs, AdamW,
highest learning rate {rate}, batches of {batch}. All networks have these settings; they were chosen for the
plain network, by the accuracy of one shorter run.

Accuracy: of the perception branch, on all test images. Pointing: how often the maximum of the map lies in
the box of the product. Energy: the share of the map's sum in the box. Both over {measured} test images. The
box is a quarter of the image, so a map of noise has 0.25 in both. Each cell: mean / worst seed.

- **Grad-CAM**: by torch-cam with a reshape of the tokens, from the first norm of the last block.
- **Attention rollout**: Abnar and Zuidema, ACL 2020; shows no class.
- **ABN before its training**: the plain network after its training, wrapped.
- **Class token's weights on other tokens**: the plain network's final norm and classifier, applied to the
  patch tokens. The map is the evidence for the predicted class.

## A classifier that reads the mean of the tokens

{pooled}

The plain network predicts {plain_accuracy} right. Wrapped, and not trained any further, the perception
branch predicts {wrapped} right, and the attention branch {wrapped_attention}.

## A classifier that reads a class token

{token}

## Do a class token's weights mean anything on the other tokens?

The plain network predicts {token_accuracy} right from its class token. The mean of the same weights' scores
over the patch tokens predicts {misread} right. So `wrap_backbone` starts the attention branch anew in
such networks, and warns.

## What it costs

Time and FLOPs of one prediction with map, over those of the plain network's logits: batches of 8, one
thread, median of 15 rounds in turn, random weights. Time over FLOPs is 1 if the branch is as efficient as
the network.

{cost}

## What came of it

- With the branch, both kinds of network are more accurate than without, in each run.
- **Where the map points differs from seed to seed.** In the network that reads the mean of the tokens,
  the map of one seed is well above Grad-CAM, and that of the other below. So do not trust the map of one
  transformer that was trained from nothing: measure it, or supervise it with `AttentionMapLoss`.
  Attention rollout points at the product about as often in every run.
- In the one run with a class token, the map is a little above attention rollout, and far above Grad-CAM.
- With an earlier split, `split="blocks.1"`, the network was the most accurate in both runs, and its map
  the best in one. In the other run it pointed little better than Grad-CAM. The default is still the last
  quarter of the layers.
- `stage="copy"`, as in the paper, costs a quarter more, and is neither more accurate nor better at
  pointing. So `"light"` is the default for new heads on tokens.
- The plain network, wrapped and not trained further, has maps that point a little more often than
  Grad-CAM.
- A class token's weights, applied to the other tokens, make maps no better than noise.
- Attention rollout shows what a network attends to, whatever class it then decides for.
- Stage and split were compared on the test images. Where a row has one seed, the spread is not known.
"""
