"""The perception branch: the rest of the backbone, on features weighted by the attention map."""

from torch import Tensor, nn

from abn.modules.features import Features, feature_map_of, with_feature_map
from abn.modules.inputs import match_features
from abn.modules.mechanisms import attend, check_mechanism


class PerceptionBranch(nn.Module):
    r"""Weights the features with the attention map and classifies them.

    The attention mechanism is one of three. g are the features, M is the map:

    - ``"dimming"``: :math:`g' = (g + M \cdot g) / 2`. Features keep their size where the map is 1, and are
      halved where the map is 0. For pretrained backbones: the tail gets no larger features than it was
      trained for. A map of ones leaves the features, and so the backbone's own logits, exactly unchanged.
    - ``"residual"``: :math:`g' = g + M \cdot g` (Fukui et al., CVPR 2019, section 3.2, equation 2), which the
      paper prefers and the published weights were trained with. It doubles the features where the map is 1. A
      map of zeros leaves the features unchanged.
    - ``"multiplicative"``: :math:`g' = M \cdot g` (equation 1). A map of ones leaves the features unchanged.

    Args:
        tail: The rest of the backbone: takes features (B, C, H, W) and returns logits (B, K).
        mechanism: ``"dimming"``, ``"residual"`` or ``"multiplicative"``.

    Raises:
        ValueError: If ``mechanism`` is none of the three.

    Example:
        >>> import torch
        >>> tail = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))
        >>> branch = PerceptionBranch(tail)
        >>> branch(torch.randn(2, 256, 14, 14), torch.rand(2, 1, 14, 14)).shape
        torch.Size([2, 10])
    """

    def __init__(self, tail: nn.Module, mechanism: str = "residual") -> None:
        super().__init__()
        check_mechanism(mechanism)
        self.tail = tail
        self.mechanism = mechanism

    def extra_repr(self) -> str:
        return f"mechanism={self.mechanism!r}"

    def forward(self, features: Tensor | Features, attention_map: Tensor) -> Tensor:
        """Classifies the attended features.

        Args:
            features: (B, C, H, W), or :class:`abn.modules.features.Features`.
            attention_map: (B, 1, h, w) or (B, h, w), where B may be 1 to use one map for the whole
                batch. A map is resized to the resolution of the features, bilinearly.

        Returns:
            ``perception_logits`` (B, K).

        Raises:
            ValueError: If the map has another shape.
        """
        feature_map = feature_map_of(features)
        attended = attend(feature_map, match_features(attention_map, feature_map), self.mechanism)
        logits: Tensor = self.tail(with_feature_map(features, attended))
        return logits
