"""Attention Branch Networks (Fukui et al., CVPR 2019): image classifiers that explain themselves."""

from abn import hub, metrics, visualize
from abn.losses import ABNLoss, AttentionMapLoss
from abn.models import (
    abn_cifar_densenet,
    abn_cifar_resnet,
    abn_cifar_resnext,
    abn_cifar_wide_resnet,
    abn_resnet18,
    abn_resnet34,
    abn_resnet50,
    abn_resnet101,
    abn_resnet152,
    abn_se_resnet18,
    abn_se_resnet34,
    abn_se_resnet50,
    abn_se_resnet101,
    abn_se_resnet152,
)
from abn.models.registry import create_model, list_models
from abn.modules.attention import AttentionBranch, PretrainedAttentionBranch
from abn.modules.multitask import MultiTaskAttentionBranch, MultiTaskPerceptionBranch, ResponseAttentionBranch
from abn.modules.perception import PerceptionBranch
from abn.modules.pooled_classifier import PooledClassifier
from abn.network import ABN, ABNOutput, LogitsOnly
from abn.preprocessing import Preprocessing
from abn.retrofit.errors import CutError
from abn.retrofit.wrap import find_splits, wrap_backbone

__version__ = "0.2.0"

__all__ = [
    "ABN",
    "ABNLoss",
    "ABNOutput",
    "AttentionBranch",
    "AttentionMapLoss",
    "CutError",
    "LogitsOnly",
    "MultiTaskAttentionBranch",
    "MultiTaskPerceptionBranch",
    "PerceptionBranch",
    "PooledClassifier",
    "Preprocessing",
    "PretrainedAttentionBranch",
    "ResponseAttentionBranch",
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
    "create_model",
    "find_splits",
    "hub",
    "list_models",
    "metrics",
    "visualize",
    "wrap_backbone",
]
