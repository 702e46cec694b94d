"""What the feature extractor hands to the branches: a feature map, and sometimes more."""

from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._pytree import _register_namedtuple


class Features(NamedTuple):
    """Features of a network that hands on more than a feature map, such as the class token of a transformer.

    A network that hands on a feature map alone has features that are one tensor (B, C, H, W).
    """

    feature_map: Tensor
    """(B, C, H, W): what the attention branch sees and the attention map weights."""
    per_image: tuple[Tensor, ...]
    """Goes past the attention unchanged, such as a class token, (B, n, C). The first dimension is
    the batch, or the batch times the same number for each image."""
    shared: tuple[Any, ...]
    """Is equal for all images, such as position embeddings and sizes."""


_register_namedtuple(Features, serialized_type_name="abn.modules.features.Features")


def feature_map_of(features: Tensor | Features) -> Tensor:
    """Returns the feature map (B, C, H, W) of features."""
    return features.feature_map if isinstance(features, Features) else features


def with_feature_map(features: Tensor | Features, feature_map: Tensor) -> Tensor | Features:
    """Returns features with another feature map.

    Args:
        features: Features of B images.
        feature_map: (B · n, C, H, W): n maps for each image, one image after the other.
    """
    if not isinstance(features, Features):
        return feature_map
    batch = features.feature_map.shape[0]
    count = feature_map.shape[0] // batch
    per_image = features.per_image
    if count != 1:
        per_image = tuple(
            value.reshape(batch, -1, *value.shape[1:]).repeat_interleave(count, dim=0).flatten(0, 1)
            for value in per_image
        )
    return Features(feature_map, per_image, features.shared)
