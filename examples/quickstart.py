"""Retrofits a small CNN, trains it on handwritten digits among clutter, and shows where it looked.

    python examples/quickstart.py

Takes about half a minute on two CPU cores, downloads nothing, and writes attention.png.
"""

import argparse
import os
from pathlib import Path

import torch
from digits import CANVAS, DIGIT, TRAINING_DIGITS, place, scans
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.utils import draw_bounding_boxes

from abn import ABNLoss, metrics, wrap_backbone
from abn.progress import progress
from abn.visualize import grid


class SmallCNN(nn.Module):
    """A plain network, as you may have one: it knows nothing of attention."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stage1 = stage(1, 24, stride=2)
        self.stage2 = stage(24, 48, stride=2)
        self.stage3 = stage(48, 96, stride=2)
        self.classifier = nn.Linear(96, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stage3(self.stage2(self.stage1(images)))
        return self.classifier(features.mean(dim=(2, 3)))


def stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("attention.png"))
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)
    (train_digits, train_labels), (test_digits, test_labels) = scans(train=True), scans(train=False)
    test_images, test_boxes = place(test_digits, test_digits, generator)

    model = wrap_backbone(SmallCNN(num_classes=10), input_size=CANVAS, start="new")  # nothing is pretrained
    criterion = ABNLoss()
    batches = [range(i, min(i + 64, TRAINING_DIGITS)) for i in range(0, TRAINING_DIGITS, 64)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 3e-3, total_steps=arguments.epochs * len(batches)
    )

    bar = progress(arguments.epochs * len(batches), " batches")
    for epoch in range(arguments.epochs):
        images, _ = place(train_digits, train_digits, generator)  # new places and new clutter in every epoch
        order = torch.randperm(TRAINING_DIGITS, generator=generator)
        for batch in batches:
            chosen = order[batch.start : batch.stop]
            loss = criterion(model(images[chosen]), train_labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update()
            bar.set_postfix(epoch=epoch + 1, loss=f"{loss.item():.3f}", refresh=False)
    bar.close()

    model.eval()
    with torch.inference_mode():
        output = model(test_images)
    masks = metrics.box_masks(test_boxes, (CANVAS, CANVAS))
    hits = metrics.pointing_game(output.attention_map, masks).mean()
    energy = metrics.energy_pointing_game(output.attention_map, masks).mean()
    predicted = output.perception_logits.argmax(dim=1)
    print(f"test images                     {len(test_images)}")
    print(f"accuracy, attention branch      {accuracy(output.attention_logits, test_labels):.3f}")
    print(f"accuracy, perception branch     {accuracy(output.perception_logits, test_labels):.3f}")
    chance = DIGIT**2 / CANVAS**2
    print(f"map's peak on the digit         {hits:.3f}  (chance: {chance:.3f})")
    print(f"share of the map on the digit   {energy:.3f}  (chance: {chance:.3f})")

    pictures = F.interpolate(test_images[:8], scale_factor=4).expand(-1, 3, -1, -1)
    boxed = [
        draw_bounding_boxes(picture, 4 * box[None], colors="lime", width=2)
        for picture, box in zip(pictures, test_boxes, strict=False)
    ]
    captions = [
        f"digit {label}, predicted {guess}" for label, guess in zip(test_labels[:8], predicted, strict=False)
    ]
    picture = grid(boxed, output.attention_map[:8], captions=captions, panel_size=192)
    part = arguments.output.with_suffix(".part.png")
    picture.save(part)
    os.replace(part, arguments.output)
    print(f"image, map and overlay          {arguments.output}")


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(dim=1) == labels).float().mean().item()


if __name__ == "__main__":
    main()
