"""The network: a feature extractor, an attention branch and a perception branch."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class ABNOutput(NamedTuple):
    """What an :class:`ABN` returns; unpacks like a tuple."""

    attention_logits: Tensor
    """Scores of the attention branch, (B, K)."""
    perception_logits: Tensor
    """Scores of the perception branch, (B, K): the network's prediction."""
    attention_map: Tensor
    """Where the network looked, (B, 1, h, w) in [0, 1]."""


class ABN(nn.Module):
    """Attention Branch Network: a classifier that computes its visual explanation as it classifies.

    Fukui, Hirakawa, Yamashita and Fujiyoshi, "Attention Branch Network: Learning of Attention Mechanism
    for Visual Explanation", CVPR 2019, `arXiv:1812.10025 <https://arxiv.org/abs/1812.10025>`_.

    :func:`abn.wrap_backbone` makes one from a backbone; any three modules that fit together do as well.

    Args:
        feature_extractor: Images (B, C, H, W) to features (B, C', h, w).
        attention_branch: Features to ``(attention_logits, attention_map)``, such as
            :class:`abn.AttentionBranch`.
        perception_branch: ``(features, attention_map)`` to logits, such as :class:`abn.PerceptionBranch`.

    Example:
        >>> from abn import AttentionBranch, PerceptionBranch
        >>> model = ABN(
        ...     nn.Conv2d(3, 16, kernel_size=3, stride=2),
        ...     AttentionBranch(in_channels=16, num_classes=10),
        ...     PerceptionBranch(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))),
        ... )
        >>> attention_logits, perception_logits, attention_map = model(torch.randn(2, 3, 33, 33))
        >>> perception_logits.shape, attention_map.shape
        (torch.Size([2, 10]), torch.Size([2, 1, 16, 16]))
    """

    def __init__(
        self, feature_extractor: nn.Module, attention_branch: nn.Module, perception_branch: nn.Module
    ) -> None:
        super().__init__()
        self.feature_extractor = feature_extractor
        self.attention_branch = attention_branch
        self.perception_branch = perception_branch

    def forward(self, images: Tensor, attention_map: Tensor | None = None) -> ABNOutput:
        """Classifies the images.

        Args:
            images: (B, C, H, W), floating point, normalised as the backbone expects.
            attention_map: Takes the place of the computed map in the attention mechanism: a map edited
                by a person, or a mask. (B, 1, h, w) or (B, h, w), B = 1 for one map for all images, of
                any resolution.

        Returns:
            ``(attention_logits, perception_logits, attention_map)``. The map is always the computed one,
            so that it can be compared with, or trained towards, the one that was given.

        Raises:
            TypeError: If the images are not floating point.
            ValueError: If the images are not (B, C, H, W) or hold NaN, are so small that their features
                have a single pixel, or if ``attention_map`` has another shape. NaN is looked for on the
                CPU alone, and not in a compiled or exported model: elsewhere a look at the values
                would make every call wait for the device.
        """
        if not torch.compiler.is_compiling():
            _check(images)
        features = self.feature_extractor(images)
        attention_logits, computed_map = self.attention_branch(features)
        perception_logits = self.perception_branch(
            features, computed_map if attention_map is None else attention_map
        )
        return ABNOutput(attention_logits, perception_logits, computed_map)


def _check(images: Tensor) -> None:
    if not images.is_floating_point():
        raise TypeError(
            f"images are {images.dtype}, expected floating point: scale and normalise them as in training, "
            "for example with the transforms that came with the backbone's weights"
        )
    if images.ndim != 4:
        raise ValueError(
            f"images have shape {tuple(images.shape)}, expected (B, C, H, W): "
            "add the batch dimension with images.unsqueeze(0)"
        )
    if _hold_nan(images):
        raise ValueError(
            f"{int(images.isnan().flatten(1).any(1).sum())} of {len(images)} images hold NaN, expected "
            "finite values: look at how they were decoded and normalised (a standard deviation of 0?)"
        )


def _hold_nan(images: Tensor) -> bool:
    if images.device.type != "cpu":
        return False
    try:
        return bool(images.isnan().any())
    except RuntimeError:  # under vmap, or with fake tensors, there are no values to look at
        return False
