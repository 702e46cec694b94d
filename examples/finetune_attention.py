"""Corrects a network that looks at the wrong thing, with attention maps edited for a tenth of the images.

    python examples/finetune_attention.py

The network learns colored digits beside a square whose color betrays the class in nine of ten training images
(colored_digits.py). It learns to look at the square, and fails on the test images, where the color tells
nothing. For a tenth of the digits, first those that the network gets wrong in training, the map is then
edited: here it is the digit's box, which is known. Training goes on with a loss on these maps, and beside it,
to compare, without. Ten minutes on one CPU core that knows bfloat16.
"""

import argparse
from collections.abc import Mapping
from copy import deepcopy
from typing import get_args

import torch
from digits import TRAINING_DIGITS
from experiments.explanations.candidates import DEFAULT
from experiments.explanations.losses import Scores
from experiments.explanations.runs import accuracy, place, predict, train
from experiments.tasks.located_digits import BIASED, UNBIASED, Scenes, Task
from torch import Tensor

from abn import ABN, ABNLoss, AttentionMapLoss, metrics
from abn.losses import Guidance

WEIGHTS: dict[Guidance, float] = {"match": 0.3, "suppress_outside": 0.3, "energy": 3.0}
"""γ of each map loss."""
SHARE = 0.1  # of the training digits, whose maps are edited
LEARNING_RATE = 3e-3
Figures = dict[str, float]


class GuidedLoss:
    """The loss of the paper, and γ times that of the maps that were edited."""

    def __init__(self, model: ABN, guidance: Guidance, weight: float, edited: Tensor) -> None:
        self.model = model
        self.scores = ABNLoss()
        self.map = AttentionMapLoss(guidance)
        self.weight = weight
        self.edited = edited

    def __call__(self, batch: Scenes) -> Tensor:
        output = self.model(batch.images)
        maps = metrics.box_masks(batch.boxes, batch.images.shape[-2:])  # the edited ones; others are skipped
        distance = self.map(output.attention_map, maps, given=self.edited[batch.scans])
        return self.scores(output, batch.labels) + self.weight * distance


def to_edit(model: ABN, scenes: Scenes, count: int, generator: torch.Generator) -> Tensor:
    """Which scans (N,) to edit the maps of: misclassified ones, and if they are too few, others at random."""
    right = predict(model, scenes).perception_logits.argmax(dim=1) == scenes.labels
    order = torch.argsort(right + torch.rand(len(right), generator=generator))  # wrong ones are below 1
    chosen = torch.zeros(len(right), dtype=torch.bool)
    chosen[order[:count]] = True
    return chosen


def experiment(
    seed: int, epochs: int, more_epochs: int, weights: Mapping[Guidance, float]
) -> dict[str, Figures]:
    """Figures on the test images of a network that was never misled, of one that was, and of its corrections.

    Args:
        seed: Of the weights and the images.
        epochs: Of the training.
        more_epochs: Of the fine-tuning.
        weights: The map losses to try, with their γ.
    """
    test = BIASED.test_scenes()

    def figures(model: ABN) -> Figures:
        output = predict(model, test)
        return {"accuracy": accuracy(output.perception_logits, test), **place(test, output.attention_map)}

    def trained(task: Task) -> ABN:
        torch.manual_seed(seed)
        model = DEFAULT.network(task.channels)
        train(model, Scores(model), task, seed, epochs)
        return model

    misled = trained(BIASED)
    results = {"not misled": figures(trained(UNBIASED)), "misled": figures(misled)}
    generator = torch.Generator().manual_seed(seed)
    scenes = BIASED.scenes(True, generator)
    edited = to_edit(misled, scenes, round(SHARE * TRAINING_DIGITS), generator)
    for guidance in (None, *weights):
        model = deepcopy(misled)
        loss = Scores(model) if guidance is None else GuidedLoss(model, guidance, weights[guidance], edited)
        train(model, loss, BIASED, seed + 100, more_epochs, LEARNING_RATE)
        results["fine-tuned without maps" if guidance is None else f"fine-tuned, {guidance}"] = figures(model)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--more-epochs", type=int, default=15, help="of fine-tuning")
    parser.add_argument("--guidance", choices=get_args(Guidance), default="energy")
    parser.add_argument("--weight", type=float, help="γ of the map loss (default: one that worked)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    weight = WEIGHTS[arguments.guidance] if arguments.weight is None else arguments.weight
    results = experiment(
        arguments.seed, arguments.epochs, arguments.more_epochs, {arguments.guidance: weight}
    )
    print(f"{'network':28}accuracy  map's peak on the digit  map's energy there")
    for name, figures in results.items():
        print(f"{name:28}{figures['accuracy']:8.3f}{figures['pointing']:25.3f}{figures['energy']:20.3f}")


if __name__ == "__main__":
    main()
