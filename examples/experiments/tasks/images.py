"""Photographs to fine-tune on, or to train from nothing: the images as they are before their preparation."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """Images of one size with their answers."""

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
    """Images to train on and others to measure with; each pixel is prepared as (value / 255 - mean) / std."""

    name: str
    classes: list[str]
    train: Images
    test: Images
    flips: tuple[int, ...]
    """Along which dimensions training images are mirrored at random: -1 for left and right, -2."""
    mean: float = 0.5
    std: float = 0.5

    def prepared(self, images: Images) -> Tensor:
        """What a network gets, (N, C, H, W)."""
        scaled = (images.pixels.float() / 255 - self.mean) / self.std
        return scaled.contiguous(memory_format=torch.channels_last)  # as CPUs prefer

    def mirrored(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Training images (N, C, H, W), each mirrored with a chance of one half along each of ``flips``."""
        for dimension in self.flips:
            chosen = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
            images = torch.where(chosen, images.flip(dimension), images)
        return images.contiguous(memory_format=torch.channels_last)
