"""The layouts in which networks keep feature maps, and the way from each to a map (B, C, H, W) and back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

import torch
from torch import Tensor, fx, nn

Size = tuple[int, int]
"""Height and width."""


class OtherSizes(Enum):
    """What is known of the tokens of images of another size than the rehearsed one."""

    GROWING = "the map grows with the image"
    CONSTANT = "the network brings all images to one size"
    UNKNOWN = "other sizes are refused"


class Layout(Protocol):
    """How a network keeps a feature map. Each kind knows the way to a map (B, C, H, W) and back."""

    @property
    def other_count(self) -> int:
        """Number of tokens that stand for no patch, such as a class token."""

    def shape(self, value: Tensor) -> tuple[int, int, int]:
        """Returns (C, H, W) of the feature map in a value."""

    def to_map(self, part: fx.GraphModule, value: fx.Node, like: fx.Node, size: Size) -> fx.Node:
        """Adds the way from a value in this layout to a map (B, C, H, W) to the graph of a part.

        Args:
            part: The part of a backbone.
            value: The value.
            like: The images or the feature map that the part receives, (B, ·, H, W).
            size: Height and width of ``like`` when the backbone was rehearsed.
        """

    def from_map(self, part: fx.GraphModule, feature_map: fx.Node, others: list[fx.Node]) -> fx.Node:
        """Adds the way back. If there are other tokens, ``others`` is what :func:`other_tokens` returns."""


@dataclass(frozen=True)
class ChannelsFirst:
    """(B, C, H, W)."""

    other_count = 0

    def shape(self, value: Tensor) -> tuple[int, int, int]:
        _, channels, height, width = value.shape
        return channels, height, width

    def to_map(self, part: fx.GraphModule, value: fx.Node, like: fx.Node, size: Size) -> fx.Node:
        return value

    def from_map(self, part: fx.GraphModule, feature_map: fx.Node, others: list[fx.Node]) -> fx.Node:
        return feature_map


@dataclass(frozen=True)
class ChannelsLast:
    """(B, H, W, C)."""

    other_count = 0

    def shape(self, value: Tensor) -> tuple[int, int, int]:
        _, height, width, channels = value.shape
        return channels, height, width

    def to_map(self, part: fx.GraphModule, value: fx.Node, like: fx.Node, size: Size) -> fx.Node:
        return part.graph.call_method("permute", (value, 0, 3, 1, 2))

    def from_map(self, part: fx.GraphModule, feature_map: fx.Node, others: list[fx.Node]) -> fx.Node:
        return part.graph.call_method("permute", (feature_map, 0, 2, 3, 1))


@dataclass(frozen=True)
class Tokens:
    """(B, N, C): one token for each patch of the image, and perhaps others, such as a class token."""

    grid: Size
    """Height and width of the map."""
    before: int
    """Number of other tokens before the patch tokens."""
    after: int
    """Number of other tokens after the patch tokens."""
    order: tuple[int, ...] | None
    """Index of each pixel's token among the patch tokens, row by row. None if they are row by row."""
    of_other_sizes: OtherSizes = OtherSizes.UNKNOWN
    """What is known of images of another size."""

    @property
    def other_count(self) -> int:
        return self.before + self.after

    def with_other_sizes(self, size: Size, others: Sequence[tuple["Tokens | None", Size]]) -> "Tokens":
        """Returns the layout with what layouts of images of other sizes show.

        Args:
            size: Height and width of the images.
            others: Layouts of images of other sizes, with these sizes.
        """
        if all(other == self for other, _ in others):
            return replace(self, of_other_sizes=OtherSizes.CONSTANT)
        growing = self.order is None and all(
            other is not None
            and other.grid in grids(self.grid, size, other_size)
            and other == replace(self, grid=other.grid)
            for other, other_size in others
        )
        return replace(self, of_other_sizes=OtherSizes.GROWING) if growing else self

    def shape(self, value: Tensor) -> tuple[int, int, int]:
        return value.shape[2], *self.grid

    def to_map(self, part: fx.GraphModule, value: fx.Node, like: fx.Node, size: Size) -> fx.Node:
        part.add_submodule(_TO_MAP, TokensToMap(self, size))
        return part.graph.call_module(_TO_MAP, (value, like))

    def from_map(self, part: fx.GraphModule, feature_map: fx.Node, others: list[fx.Node]) -> fx.Node:
        part.add_submodule(_FROM_MAP, MapToTokens(self))
        return part.graph.call_module(_FROM_MAP, (feature_map, *others))


def other_tokens(part: fx.GraphModule, layout: Tokens, value: fx.Node) -> fx.Node:
    """Adds the way from a sequence of tokens to the other tokens to the graph of a part."""
    part.add_submodule(_OTHERS, OtherTokens(layout))
    return part.graph.call_module(_OTHERS, (value,))


_TO_MAP, _OTHERS, _FROM_MAP = "abn_to_map", "abn_other_tokens", "abn_from_map"  # names that no backbone has


class TokensToMap(nn.Module):
    """Takes the patch tokens out of a sequence, and puts them together as a map.

    Args:
        layout: Layout of the sequence, for images of ``size``.
        size: Height and width of the images, or of another map that is aligned with this one.
    """

    def __init__(self, layout: Tokens, size: Size) -> None:
        super().__init__()
        self.layout = layout
        self.size = size

    def extra_repr(self) -> str:
        grid = " × ".join(map(str, self.layout.grid))
        return f"{grid}, other tokens={self.layout.other_count}, {self.layout.of_other_sizes.value}"

    def forward(self, tokens: Tensor, like: Tensor) -> Tensor:
        """Takes tokens (B, N, C) and images (B, ·, H, W). Returns a map (B, C, h, w).

        Raises:
            ValueError: If it is not known which of the tokens is which patch, for images of this size.
        """
        pixels = tokens[:, self.layout.before : tokens.shape[1] - self.layout.after]
        count, size = pixels.shape[1], (like.shape[2], like.shape[3])
        rows, columns = self.layout.grid
        if self.layout.of_other_sizes is OtherSizes.GROWING:
            (rows, columns), padded = grids(self.layout.grid, self.size, size)
            if rows * columns != count:
                rows, columns = padded
        known = self.layout.of_other_sizes is not OtherSizes.UNKNOWN or size == self.size
        if rows * columns != count or not known:
            height, width = self.size
            raise ValueError(
                f"got {count} patch tokens of images of {size[0]} × {size[1]}, expected {rows * columns}; "
                f"the network was cut for images of {height} × {width} "
                f"({self.layout.of_other_sizes.value}): resize the images, or give another input_size="
            )
        if self.layout.order is not None:
            pixels = pixels[:, list(self.layout.order)]
        return pixels.transpose(1, 2).reshape(pixels.shape[0], -1, rows, columns)


def grids(grid: Size, size: Size, other: Size) -> tuple[Size, Size]:
    """Returns height and width of the map of images of another size: left-over pixels cut off, or padded.

    Args:
        grid: Height and width of the map of images of ``size``.
        size: Height and width of images.
        other: Height and width of other images.
    """
    strides = [round(pixels / cells) for pixels, cells in zip(size, grid, strict=True)]
    height, width = other
    return (height // strides[0], width // strides[1]), (-(-height // strides[0]), -(-width // strides[1]))


class OtherTokens(nn.Module):
    """Takes the other tokens out of a sequence (B, N, C). Returns them as (B, n, C)."""

    def __init__(self, layout: Tokens) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, tokens: Tensor) -> Tensor:
        before, after = tokens[:, : self.layout.before], tokens[:, tokens.shape[1] - self.layout.after :]
        return torch.cat([before, after], dim=1)


class MapToTokens(nn.Module):
    """Puts a map back into its sequence, among the other tokens in the order that they had."""

    def __init__(self, layout: Tokens) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, feature_map: Tensor, others: Tensor | None = None) -> Tensor:
        """Takes a map (B, C, h, w) and the other tokens (B, n, C). Returns tokens (B, h·w + n, C)."""
        # No contiguous(): tokens in another memory layout than the backbone's would be rounded otherwise.
        pixels = feature_map.flatten(2).transpose(1, 2)
        if (order := self.layout.order) is not None:
            pixels = pixels[:, sorted(range(len(order)), key=order.__getitem__)]
        if others is None:
            return pixels
        before, after = others[:, : self.layout.before], others[:, self.layout.before :]
        return torch.cat([before, pixels, after], dim=1)
