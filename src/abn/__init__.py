"""Attention Branch Networks (Fukui et al., CVPR 2019): image classifiers that explain themselves."""

from abn import hub
from abn.attention import AttentionBranch
from abn.losses import ABNLoss
from abn.models import abn_resnet18, abn_resnet34, abn_resnet50, abn_resnet101, abn_resnet152
from abn.network import ABN, ABNOutput, LogitsOnly
from abn.perception import PerceptionBranch
from abn.tracer import CutError
from abn.wrap import find_splits, wrap_backbone

__version__ = "0.1.0"

__all__ = [
    "ABN",
    "ABNLoss",
    "ABNOutput",
    "AttentionBranch",
    "CutError",
    "LogitsOnly",
    "PerceptionBranch",
    "abn_resnet18",
    "abn_resnet34",
    "abn_resnet50",
    "abn_resnet101",
    "abn_resnet152",
    "find_splits",
    "hub",
    "wrap_backbone",
]
