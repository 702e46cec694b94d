"""The backbones on which the tests run, and how to build and to wrap one in little time."""

import copy
import functools

import torch
from torch import nn

from abn import ABN, wrap_backbone
from abn.retrofit.backbones import create_backbone

ARCHITECTURES = [
    "torchvision/resnet18",
    "torchvision/resnet50",
    "torchvision/densenet121",
    "torchvision/vgg11_bn",
    "torchvision/alexnet",
    "torchvision/squeezenet1_1",
    "torchvision/mobilenet_v3_small",
    "torchvision/efficientnet_b0",
    "torchvision/convnext_tiny",
    "torchvision/regnet_y_400mf",
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/googlenet",
    "torchvision/inception_v3",
    "timm/resnet50d",
    "timm/resnetblur50",
    "timm/convnext_atto",
    "timm/efficientnet_b0",
    "timm/mobilenetv3_small_050",
    "timm/densenet121",
    "timm/regnety_002",
    "timm/nfnet_l0",
    "timm/cspdarknet53",
    "timm/ghostnet_100",
    "timm/inception_v4",
    "timm/ese_vovnet19b_dw",
]


# One of each kind of network that works on tokens, with the arguments that make it small.
TOKENS: dict[str, dict[str, object]] = {
    "timm/test_vit": {},  # reads its class token
    "timm/test_vit2": {},  # a register, and reads the mean of the other tokens
    "timm/test_vit_relpos": {},  # no token but the pixels, and relative positions
    "timm/deit_tiny_distilled_patch16_224": {"img_size": 64, "embed_dim": 48, "depth": 4},  # two class tokens
    "timm/vit_base_patch16_siglip_224": {"img_size": 64, "embed_dim": 48, "depth": 4, "num_heads": 3},
    "timm/vit_tiny_patch16_224": {"img_size": 64, "embed_dim": 48, "depth": 4, "pos_embed": "none"},
    "timm/mixer_s32_224": {"img_size": 128},
    "timm/samvit_base_patch16_224": {"img_size": 64, "embed_dim": 48, "depth": 4, "num_heads": 3},  # windows
    "timm/eva02_tiny_patch14_224": {"img_size": 56, "depth": 4, "num_classes": 10},  # rotary
    "timm/xcit_nano_12_p8_224": {"img_size": 64, "depth": 4},  # the size of the map goes past
    "timm/tnt_s_legacy_patch16_224": {"img_size": 64, "depth": 4},  # two streams
    "timm/levit_128s": {},  # coarser from stage to stage
}

# Networks that take images of one size alone.
ONE_SIZE = {
    "timm/test_coatnet": 160,
    "timm/test_vit_relpos": 160,
    "timm/deit_tiny_distilled_patch16_224": 64,
    "timm/vit_tiny_patch16_224": 64,
    "timm/mixer_s32_224": 128,
    "timm/samvit_base_patch16_224": 64,
}


def build(name: str, **arguments: object) -> nn.Module:
    """The backbone with random weights. Networks of tokens are small."""
    return build_whole(name, **{**TOKENS.get(name, {}), **arguments})


def build_whole(name: str, **arguments: object) -> nn.Module:
    """The backbone with random weights; googlenet and inception_v3 would spend seconds on drawing theirs."""
    if name in ("torchvision/googlenet", "torchvision/inception_v3"):
        arguments["init_weights"] = False
    return create_backbone(name, **arguments)


def wrapped(name: str, **arguments: object) -> ABN:
    """The backbone with an attention branch, in evaluation mode. Wrapped once per process, then copied."""
    return copy.deepcopy(_wrapped_once(name, **arguments))


@functools.cache
def _wrapped_once(name: str, **arguments: object) -> ABN:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return wrap_backbone(build(name).eval(), **arguments)


def image_size(name: str) -> int:
    """The least multiple of 32 that leaves the deeper feature maps more than one pixel."""
    return 128 if "inception" in name else 96 if "googlenet" in name else 64


# One of each way of building a network, small enough to be compiled and exported many times over.
FAMILIES = [
    "timm/test_resnet",
    "timm/test_mambaout",  # channels last
    "timm/test_convnext",
    "timm/test_efficientnet",
    "timm/test_nfnet",
    "timm/test_coatnet",  # relative positions
    "torchvision/squeezenet1_1",  # cut within a container
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/mobilenet_v3_small",
    "timm/test_vit",  # a class token
    "timm/test_vit2",  # registers
    "timm/test_vit_relpos",  # pooled tokens
    "timm/deit_tiny_distilled_patch16_224",
    "timm/mixer_s32_224",
    "timm/samvit_base_patch16_224",  # windows
    "timm/vit_tiny_patch16_224",  # no position embedding
]
