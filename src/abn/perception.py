"""The perception branch: the rest of the backbone, on features weighted by the attention map."""

from typing import Literal, get_args

from torch import Tensor, nn

from abn.maps import fitted

Mechanism = Literal["residual", "multiplicative"]


class PerceptionBranch(nn.Module):
    r"""Weights the features with the attention map and classifies them.

    The attention mechanism is residual, :math:`g' = (1 + M) \cdot g`, or multiplicative,
    :math:`g' = M \cdot g` (Fukui et al., CVPR 2019, section 3.2; the paper prefers the first, and the
    published weights were trained with it). Under the residual mechanism a map of zeros leaves the
    features, and with them the backbone's own logits, exactly as they were.

    Args:
        tail: The rest of the backbone: features (B, C, H, W) to logits (B, K).
        mechanism: ``"residual"`` or ``"multiplicative"``.

    Raises:
        ValueError: If the mechanism is neither of the two.

    Example:
        >>> import torch
        >>> tail = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))
        >>> branch = PerceptionBranch(tail)
        >>> branch(torch.randn(2, 256, 14, 14), torch.rand(2, 1, 14, 14)).shape
        torch.Size([2, 10])
    """

    def __init__(self, tail: nn.Module, mechanism: Mechanism = "residual") -> None:
        super().__init__()
        check_mechanism(mechanism)
        self.tail = tail
        self.mechanism = mechanism

    def extra_repr(self) -> str:
        return f"mechanism={self.mechanism!r}"

    def forward(self, features: Tensor, attention_map: Tensor) -> Tensor:
        """Classifies the attended features.

        Args:
            features: (B, C, H, W).
            attention_map: (B, 1, h, w) or (B, h, w), where B may be 1 to use one map for the whole
                batch. Another resolution than that of the features is resized, bilinearly.

        Returns:
            ``perception_logits`` (B, K).

        Raises:
            ValueError: If the map's shape is none of these.
        """
        logits: Tensor = self.tail(attend(features, fitted(attention_map, features), self.mechanism))
        return logits


def attend(features: Tensor, attention_map: Tensor, mechanism: Mechanism) -> Tensor:
    """The features weighted with a map that can be broadcast to them."""
    attended = features * attention_map
    # Not features * (1 + map): near 1 half precision would round most of the map away.
    return features + attended if mechanism == "residual" else attended


def check_mechanism(mechanism: str) -> None:
    """Raises a ValueError if there is no such attention mechanism."""
    if mechanism not in get_args(Mechanism):
        raise ValueError(f"mechanism is {mechanism!r}, expected one of {get_args(Mechanism)}")
