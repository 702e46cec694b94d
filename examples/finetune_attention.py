"""Corrects a network that looks at the wrong thing, with attention maps edited for a tenth of the images.

    python examples/finetune_attention.py

The network learns colored digits beside a square whose color betrays the class in nine of ten training images
(colored_digits.py). It learns to look at the square, and fails on the test images, where the color tells
nothing. Then the map is edited for a tenth of the digits, first those that the network gets wrong in
training: the edited map is the digit's box, which is known here. Training goes on with a loss on these maps
and, to compare, without it. Ten minutes on one CPU core that supports bfloat16.
"""

import argparse
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import NamedTuple, get_args

import torch
from colored_digits import place_colored
from digits import TRAINING_DIGITS, scans
from torch import Tensor

from abn import ABN, ABNLoss, ABNOutput, AttentionMapLoss, abn_cifar_resnet, metrics
from abn.losses import Guidance

BETRAYED = 0.9  # share of the training images whose square has the color of the class
EDITED = 0.1  # share of the training digits whose maps are edited
WEIGHTS: dict[Guidance, float] = {"match": 0.3, "suppress_outside": 0.3, "energy": 3.0}
"""Weight γ of each loss on maps."""
BATCH = 64
LEARNING_RATE = 3e-3
Figures = dict[str, float]


class Images(NamedTuple):
    """Colored digits, each on a canvas of its own."""

    pixels: Tensor  # (N, 3, 48, 48), in 0..1
    labels: Tensor  # (N,)
    boxes: Tensor  # (N, 4), x1 y1 x2 y2 of the digits
    digits: Tensor  # (N,), index of the scan in each image

    def part(self, chosen: Tensor) -> "Images":
        pixels = self.pixels[chosen].contiguous(memory_format=torch.channels_last)  # faster on CPUs
        return Images(pixels, self.labels[chosen], self.boxes[chosen], self.digits[chosen])


def make_images(train: bool, betrayed: float, generator: torch.Generator) -> Images:
    """Puts each scanned digit of the training or the test set at a new random place."""
    digits, labels = scans(train)
    pixels, boxes = place_colored(digits, labels, digits, betrayed, generator)
    return Images(pixels, labels, boxes, torch.arange(len(labels)))


Loss = Callable[[ABNOutput, Images], Tensor]


def score_loss(output: ABNOutput, batch: Images) -> Tensor:
    """Computes the loss of the paper."""
    return ABNLoss()(output, batch.labels)


def guided_loss(guidance: Guidance, weight: float, edited: Tensor) -> Loss:
    """Returns a loss: the loss of the paper, plus γ times the loss on the edited maps.

    Args:
        guidance: Kind of the loss on maps.
        weight: Weight γ of the loss on maps.
        edited: (N,), bool: the scanned digits whose maps were edited. Other digits have no loss on maps.
    """
    of_maps = AttentionMapLoss(guidance)

    def loss(output: ABNOutput, batch: Images) -> Tensor:
        maps = metrics.box_masks(batch.boxes, batch.pixels.shape[-2:])
        distance = of_maps(output.attention_map, maps, given=edited[batch.digits])
        return score_loss(output, batch) + weight * distance

    return loss


def train(model: ABN, loss: Loss, betrayed: float, seed: int, epochs: int) -> None:
    """Trains a network in place by AdamW. The learning rate rises for a tenth of the steps, then it falls."""
    generator = torch.Generator().manual_seed(1000 + seed)
    model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    steps = TRAINING_DIGITS // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=epochs * steps, pct_start=0.1
    )
    for _ in range(epochs):
        images = make_images(True, betrayed, generator)  # new places in every epoch
        order = torch.randperm(TRAINING_DIGITS, generator=generator)
        for chosen in order[: steps * BATCH].split(BATCH):
            batch = images.part(chosen)
            with torch.autocast("cpu", torch.bfloat16):
                value = loss(model(batch.pixels), batch)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def predict(model: ABN, images: Images) -> ABNOutput:
    """Computes scores and maps of all images."""
    model.eval()
    outputs = [model(pixels) for pixels in images.pixels.split(BATCH)]
    return ABNOutput(*map(torch.cat, zip(*outputs, strict=True)))


def figures_of(model: ABN, test: Images) -> Figures:
    """Measures the accuracy, and where the maps point."""
    output = predict(model, test)
    masks = metrics.box_masks(test.boxes, test.pixels.shape[-2:])
    right = output.perception_logits.argmax(dim=1) == test.labels
    return {
        "accuracy": right.float().mean().item(),
        "pointing": metrics.pointing_game(output.attention_map, masks).mean().item(),
        "energy": metrics.energy_pointing_game(output.attention_map, masks).mean().item(),
    }


def choose_to_edit(model: ABN, images: Images, count: int, generator: torch.Generator) -> Tensor:
    """Chooses the digits (N,) whose maps are edited: misclassified ones first, then others at random."""
    right = predict(model, images).perception_logits.argmax(dim=1) == images.labels
    order = torch.argsort(right + torch.rand(len(right), generator=generator))  # wrong ones are below 1
    chosen = torch.zeros(len(right), dtype=torch.bool)
    chosen[order[:count]] = True
    return chosen


def experiment(
    seed: int, epochs: int, more_epochs: int, weights: Mapping[Guidance, float]
) -> dict[str, Figures]:
    """Measures a network that was never misled, a misled one, and its corrections, on the test images.

    Args:
        seed: Seed of the weights and the images.
        epochs: Epochs of the training.
        more_epochs: Epochs of the fine-tuning.
        weights: Losses on maps to try, with their weights γ.
    """
    test = make_images(False, 0.0, torch.Generator().manual_seed(0))

    def trained(betrayed: float) -> ABN:
        torch.manual_seed(seed)
        model = abn_cifar_resnet(20, in_channels=3)
        train(model, score_loss, betrayed, seed, epochs)
        return model

    misled = trained(BETRAYED)
    results = {"not misled": figures_of(trained(0.0), test), "misled": figures_of(misled, test)}
    generator = torch.Generator().manual_seed(seed)
    images = make_images(True, BETRAYED, generator)
    edited = choose_to_edit(misled, images, round(EDITED * TRAINING_DIGITS), generator)
    losses: dict[str, Loss] = {"fine-tuned without maps": score_loss}
    for guidance, weight in weights.items():
        losses[f"fine-tuned, {guidance}"] = guided_loss(guidance, weight, edited)
    for name, loss in losses.items():
        model = deepcopy(misled)
        train(model, loss, BETRAYED, seed + 100, more_epochs)
        results[name] = figures_of(model, test)
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
