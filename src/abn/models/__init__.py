"""The published networks, by name."""

from abn.models.resnet import abn_resnet18, abn_resnet34, abn_resnet50, abn_resnet101, abn_resnet152

__all__ = ["abn_resnet18", "abn_resnet34", "abn_resnet50", "abn_resnet101", "abn_resnet152"]
