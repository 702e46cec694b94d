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


def build(name: str, **arguments: object) -> nn.Module:
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
    "timm/test_coatnet",  # relative positions: takes one size of images
    "torchvision/squeezenet1_1",  # cut within a container
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/mobilenet_v3_small",
]
