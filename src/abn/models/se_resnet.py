"""SE-ResNets for ImageNet with an attention branch, on timm's ResNet.

Squeeze-and-excitation is by Hu et al., CVPR 2018. These are the networks of the official code's
``models/imagenet/senet_resnet.py``, cut after ``layer3``. With ``map="log_sum"`` they compute what the
official networks compute. Weights were never published.
"""

import functools
from typing import Any

from abn.models.registry import register_model
from abn.network import ABN
from abn.retrofit.wrap import wrap_backbone


@register_model
def abn_se_resnet18(**kwargs: Any) -> ABN:
    """SE-ResNet-18 with an attention branch.

    Args:
        **kwargs: Passed to :func:`abn.wrap_backbone` (``num_classes``, ``map``, ``mechanism``, ...) and
            from there to timm's builder (``pretrained``, ``in_chans``, ...).
    """
    return _abn_se_resnet("seresnet18", **kwargs)


@register_model
def abn_se_resnet34(**kwargs: Any) -> ABN:
    """SE-ResNet-34 with an attention branch. Arguments as for :func:`abn_se_resnet18`."""
    return _abn_se_resnet("seresnet34", **kwargs)


@register_model
def abn_se_resnet50(**kwargs: Any) -> ABN:
    """SE-ResNet-50 with an attention branch. Arguments as for :func:`abn_se_resnet18`."""
    return _abn_se_resnet("seresnet50", **kwargs)


@register_model
def abn_se_resnet101(**kwargs: Any) -> ABN:
    """SE-ResNet-101 with an attention branch. Arguments as for :func:`abn_se_resnet18`."""
    return _abn_se_resnet("seresnet101", **kwargs)


@register_model
def abn_se_resnet152(**kwargs: Any) -> ABN:
    """SE-ResNet-152 with an attention branch. Arguments as for :func:`abn_se_resnet18`."""
    return _abn_se_resnet("seresnet152", **kwargs)


def _abn_se_resnet(name: str, **kwargs: Any) -> ABN:
    # timm takes longer to import than everything else here together.
    from timm.layers.squeeze_excite import SEModule

    # One sixteenth of the channels, as published: by default, timm rounds this number to a multiple of 8.
    squeeze = functools.partial(SEModule, rd_divisor=1)
    kwargs = {"split": "layer3", **kwargs}
    return wrap_backbone(f"timm/{name}", block_args={"attn_layer": squeeze}, **kwargs)
