"""Tasks of photographs, with the images as they are before they are prepared for a network."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """Images of one size with their labels."""

    pixels: Tensor
    """(N, C, H, W), uint8."""
    labels: Tensor
    """(N,), int64."""
    masks: Tensor | None = None
    """(N, H, W), bool: the pixels of the object, where they are known."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: Tensor) -> "Images":
        masks = None if self.masks is None else self.masks[chosen]
        return Images(self.pixels[chosen], self.labels[chosen], masks)


@dataclass(frozen=True)
class Task:
    """Images to train on and images to test with. Pixels are prepared as (value / 255 - mean) / std."""

    name: str
    classes: list[str]
    train: Images
    test: Images
    flips: tuple[int, ...]
    """Dimensions along which training images are mirrored at random: -1 left and right, -2 top and bottom."""
    mean: float = 0.5
    std: float = 0.5

    def prepared(self, images: Images) -> Tensor:
        """Returns the images as a network gets them, (N, C, H, W)."""
        scaled = (images.pixels.float() / 255 - self.mean) / self.std
        return scaled.contiguous(memory_format=torch.channels_last)  # faster on CPUs

    def mirrored(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Mirrors each image of (N, C, H, W) with a chance of one half along each of ``flips``."""
        for dimension in self.flips:
            chosen = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
            images = torch.where(chosen, images.flip(dimension), images)
        return images.contiguous(memory_format=torch.channels_last)
