"""The page on photographs, from the figures of its runs."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from photographs import before_tables, trained_tables
from photographs.before import CONFIDENT, DELETED, GRIDS, PASTED_TIMES, SCORED
from photographs.runs import IMAGE_SIZE, STUDIES
from photographs.tables import table
from photographs.trained_tables import Runs


def page(networks: before_tables.Results, runs: dict[str, Runs], fineness: Sequence[dict[str, Any]]) -> str:
    """The page.

    Args:
        networks: Figures of the pretrained networks before any training.
        runs: The runs of each study.
        fineness: Figures of maps of several sizes.
    """
    packages = ("torch", "torchvision", "timm", "torchcam", "grad-cam")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    parts = [
        HEAD.format(versions=f"{versions}, Python {platform.python_version()}, {platform.machine()}"),
        BEFORE.format(
            predictions=table(before_tables.prediction_rows(networks)),
            maps=table(before_tables.map_rows(networks)),
            few=table(before_tables.few_rows(networks)),
            grids=table(before_tables.grid_rows(networks)),
            grid_facts="; ".join(
                f"{name}: {figures['grids']['photographs']} photographs" for name, figures in networks.items()
            ),
            changes=table(before_tables.change_rows(networks)),
            cost=table(before_tables.cost_rows(networks)),
            confident=CONFIDENT,
            deleted=DELETED,
            scored=SCORED,
            grid_count=GRIDS,
            times=PASTED_TIMES,
        ),
    ]
    for name, text in (("cells", CELLS), ("cutouts", CUTOUTS), ("fashion", FASHION)):
        of_study, recipe = runs[name], STUDIES[name].recipe
        parts.append(
            text.format(
                epochs=recipe.epochs,
                batch=recipe.batch,
                rate=recipe.learning_rate,
                seeds=STUDIES[name].seeds,
                size=IMAGE_SIZE,
                scores=table(trained_tables.score_rows(of_study)),
                by_seed=table(trained_tables.seed_rows(of_study)),
                maps=table(trained_tables.map_rows(of_study)),
                effect=table(trained_tables.effect_rows(of_study)),
            )
        )
    parts.append(FINENESS.format(fineness=table(before_tables.fineness_rows(fineness))))
    return "\n".join([*parts, END])


HEAD = """\
# Photographs: what a pretrained network and its maps are worth

Written by `python examples/photos.py` from the logs of its runs: {versions}.
Weights and photographs come from ordinary packages, named in `examples/photographs/`.
"""

BEFORE = """\
## Before any training

`wrap_backbone` keeps what a pretrained classifier has learned. The attention branch runs the classifier's
own last stage at every pixel of the features, and reads its own final layers as evidence per pixel. So the
network predicts about as well as before, and its map points at what it predicts from the first call, in one
forward pass and without a gradient.

Two sets of images:

- **photographs**: 20 photographs of ImageNet, one object each (package `foolbox`, MIT).
- **composites**: 126 cut-out objects (photographs from Tux Paint's stamps, GPL-2), each pasted at random on one
  of seven backgrounds (MATE, GPL-2+), {times} times, of which the object's pixels are known. They are composites,
  not natural photographs.

Networks with their published ImageNet weights. Map, mechanism and stage were chosen on EfficientNet-Lite0 and
MobileNetV2 with these very images; EfficientNet-Lite1 was not looked at before.

### Predictions

Top-1 accuracy; *agreement*: how often the attention branch says what the plain network says.

{predictions}

The perception branch is the network's prediction. On one photograph of the 20 it may differ from the plain
network: what the map does not show is dimmed, also where it helped. For this reason it is better among
clutter.

### Maps

On the composites that the plain network gets right. *Peak*: in which share of the images the map's highest
point lies on the object's pixels. *Energy*: which share of the map does. *Deletion* (low is good) and
*insertion* (high is good): what the plain network makes of {deleted} of the images without, and with only, what
the map shows, for all maps alike. *ms per image*: prediction and map together, in batches of eight on two CPU
threads. Grad-CAM and LayerCAM are those of two libraries, of the plain network's predicted class, from its last
feature map.

{maps}

Score-CAM runs the network once for each channel of the last feature map, so it was given {scored} of the
images; the other methods on these same images beside it. Few images: read the time, and the rest with care.

{few}

### Grid pointing game

Photographs of different classes side by side (`abn.metrics.grid_pointing_game`; Böhle et al., CVPR 2021), and the
map of each class, `model.class_map(images, classes)`: which share of it lies on the photograph of its class. By
chance 0.25 in 2 × 2 and 0.111 in 3 × 3. Photographs that the plain network gets right with a probability of at
least {confident}, in {grid_count} grids of each size. {grid_facts}.

{grids}

### What each change gives

Top-1 accuracy of the perception branch, and its map on the composites. Each row adds one change.

{changes}

### What it costs

Eight images at once, eager, in rounds of all three in turn.

{cost}

More on cost: [performance.md](performance.md).
"""

CELLS = """\
## Fine-tuned: defects in solar cells

{scores}

{by_seed}

{maps}

{effect}
"""

CUTOUTS = """\
## Fine-tuned: kinds of objects

{scores}

{maps}

{effect}
"""

FASHION = """\
## From nothing: Fashion-MNIST

{scores}

{maps}

{effect}
"""

FINENESS = """\
## Small objects, small images

{fineness}
"""

END = """\
## What this does not show
"""
