"""ResNets for ImageNet with an attention branch, on torchvision's ResNet.

These are the networks of Fukui et al. (CVPR 2019, section 4.2) and of the official code's
``models/imagenet/resnet.py``. They are cut after ``layer3``. As published, the attention branch repeats
``layer4`` at stride 1.
"""

from typing import Any

from torchvision.models import WeightsEnum

from abn.models.registry import register_model
from abn.network import ABN
from abn.retrofit.wrap import wrap_backbone


@register_model
def abn_resnet18(*, weights: WeightsEnum | str | None = None, progress: bool = True, **kwargs: Any) -> ABN:
    """ResNet-18 with an attention branch.

    Args:
        weights: Torchvision's weights for the backbone, such as ``"IMAGENET1K_V1"``. The attention branch's
            stage starts from the weights of ``layer4``. Its heads start as ``start`` of
            :func:`abn.wrap_backbone` says.
        progress: Whether to show a progress bar while the weights are downloaded.
        **kwargs: Passed to :func:`abn.wrap_backbone` (``num_classes``, ``map``, ``mechanism``, ...) and
            from there to torchvision's builder.
    """
    return _abn_resnet("resnet18", weights, progress, **kwargs)


@register_model
def abn_resnet34(*, weights: WeightsEnum | str | None = None, progress: bool = True, **kwargs: Any) -> ABN:
    """ResNet-34 with an attention branch. Arguments as for :func:`abn_resnet18`."""
    return _abn_resnet("resnet34", weights, progress, **kwargs)


@register_model
def abn_resnet50(*, weights: WeightsEnum | str | None = None, progress: bool = True, **kwargs: Any) -> ABN:
    """ResNet-50 with an attention branch. Arguments as for :func:`abn_resnet18`."""
    return _abn_resnet("resnet50", weights, progress, **kwargs)


@register_model
def abn_resnet101(*, weights: WeightsEnum | str | None = None, progress: bool = True, **kwargs: Any) -> ABN:
    """ResNet-101 with an attention branch. Arguments as for :func:`abn_resnet18`."""
    return _abn_resnet("resnet101", weights, progress, **kwargs)


@register_model
def abn_resnet152(*, weights: WeightsEnum | str | None = None, progress: bool = True, **kwargs: Any) -> ABN:
    """ResNet-152 with an attention branch. Arguments as for :func:`abn_resnet18`."""
    return _abn_resnet("resnet152", weights, progress, **kwargs)


def _abn_resnet(name: str, weights: WeightsEnum | str | None, progress: bool, **kwargs: Any) -> ABN:
    kwargs = {"split": "layer3", "weights": weights, "progress": progress, **kwargs}
    return wrap_backbone(f"torchvision/{name}", **kwargs)
