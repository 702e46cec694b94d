"""The published networks by name."""

import pytest
import torch
import torchvision
from torchvision.models import ResNet18_Weights

import abn


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_resnets_are_torchvisions_cut_after_layer3(depth):
    with torch.device("meta"):
        model = getattr(abn, f"abn_resnet{depth}")(num_classes=10)
        plain = getattr(torchvision.models, f"resnet{depth}")(num_classes=10)
    extractor = {name for name, _ in model.feature_extractor.named_children()}
    tail = {name for name, _ in model.perception_branch.tail.named_children()}
    assert extractor == {"conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"}
    assert tail == {"layer4", "avgpool", "fc"}
    assert {name for name, _ in model.attention_branch.stage.named_children()} == {"layer4"}
    parts = (model.feature_extractor, model.perception_branch)
    assert sum(p.numel() for part in parts for p in part.parameters()) == sum(
        p.numel() for p in plain.parameters()
    )


def test_weights_are_torchvisions(monkeypatch):
    weights = torchvision.models.resnet18().state_dict()
    asked = []
    monkeypatch.setattr(
        ResNet18_Weights, "get_state_dict", lambda self, **kwargs: asked.append((self, kwargs)) or weights
    )
    model = abn.abn_resnet18(weights="IMAGENET1K_V1", progress=False, num_classes=10)
    ((entry, arguments),) = asked
    assert entry is ResNet18_Weights.IMAGENET1K_V1
    assert arguments["progress"] is False
    assert torch.equal(model.feature_extractor.conv1.weight, weights["conv1.weight"])
    assert torch.equal(model.attention_branch.stage.layer4[0].conv1.weight, weights["layer4.0.conv1.weight"])
    assert model.perception_branch.tail.fc.out_features == 10


def test_further_arguments_reach_the_retrofit_and_the_builder():
    model = abn.abn_resnet18(mechanism="multiplicative", stage="none", zero_init_residual=True)
    assert model.perception_branch.mechanism == "multiplicative"
    assert isinstance(model.attention_branch.stage, torch.nn.Identity)
    assert not model.feature_extractor.layer1[0].bn2.weight.any()


def test_public_names_are_importable_and_documented():
    for name in abn.__all__:
        assert getattr(abn, name).__doc__, name
