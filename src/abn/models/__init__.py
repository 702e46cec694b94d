"""Builders of the published networks."""

from abn.models.cifar.densenet import abn_cifar_densenet, cifar_densenet
from abn.models.cifar.resnet import abn_cifar_resnet, cifar_resnet
from abn.models.cifar.resnext import abn_cifar_resnext, cifar_resnext
from abn.models.cifar.wide_resnet import abn_cifar_wide_resnet, cifar_wide_resnet
from abn.models.resnet import abn_resnet18, abn_resnet34, abn_resnet50, abn_resnet101, abn_resnet152
from abn.models.se_resnet import (
    abn_se_resnet18,
    abn_se_resnet34,
    abn_se_resnet50,
    abn_se_resnet101,
    abn_se_resnet152,
)

__all__ = [
    "abn_cifar_densenet",
    "abn_cifar_resnet",
    "abn_cifar_resnext",
    "abn_cifar_wide_resnet",
    "abn_resnet18",
    "abn_resnet34",
    "abn_resnet50",
    "abn_resnet101",
    "abn_resnet152",
    "abn_se_resnet18",
    "abn_se_resnet34",
    "abn_se_resnet50",
    "abn_se_resnet101",
    "abn_se_resnet152",
    "cifar_densenet",
    "cifar_resnet",
    "cifar_resnext",
    "cifar_wide_resnet",
]
