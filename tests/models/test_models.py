"""The published networks by name."""

import copy
import pickle

import pytest
import torch
import torchvision
from torchvision.models import ResNet18_Weights

import abn
from abn import models
from abn.models import registry

CIFAR = {  # the plain network's name: arguments of a small one
    "cifar_resnet": {"depth": 8},
    "cifar_densenet": {"depth": 10, "growth_rate": 4},
    "cifar_wide_resnet": {"depth": 10, "widen_factor": 2},
    "cifar_resnext": {"depth": 11, "cardinality": 2, "base_width": 8},
}


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
    stage = model.attention_branch.stage.layer4  # a dense one, since there are weights
    assert torch.equal(stage[0].conv1.layer.weight, weights["layer4.0.conv1.weight"])
    assert model.perception_branch.tail.fc.out_features == 10


def test_further_arguments_reach_the_retrofit_and_the_builder():
    model = abn.abn_resnet18(mechanism="multiplicative", stage="none", zero_init_residual=True)
    assert model.perception_branch.mechanism == "multiplicative"
    assert isinstance(model.attention_branch.stage, torch.nn.Identity)
    assert not model.feature_extractor.layer1[0].bn2.weight.any()
    model = abn.abn_se_resnet18(num_classes=3, in_chans=1, input_size=(1, 64, 64))
    assert model(torch.randn(2, 1, 64, 64)).attention_map.shape == (2, 1, 4, 4)


@pytest.mark.parametrize(
    ("network", "millions"),
    [
        (lambda: models.cifar_resnet(20), 0.27),  # He et al. 2016, table 6
        (lambda: models.cifar_densenet(100, 12), 0.8),  # Huang et al. 2017, table 2
        (lambda: models.cifar_densenet(190, 40), 25.6),
        (lambda: models.cifar_wide_resnet(28, 10), 36.5),  # Zagoruyko and Komodakis 2016, table 4
        (lambda: models.cifar_wide_resnet(16, 8), 11.0),
        (lambda: models.cifar_resnext(29, 8, 64), 34.4),  # Xie et al. 2017, table 7
    ],
)
def test_plain_networks_have_as_many_parameters_as_published(network, millions):
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in network().parameters())
    digits = len(str(millions).split(".")[1])
    assert round(count / 1e6, digits) == pytest.approx(millions)


@pytest.mark.parametrize("name", CIFAR)
def test_network_with_a_map_of_zeros_is_the_plain_network(name):
    arguments = {**CIFAR[name], "num_classes": 7, "in_channels": 1}
    plain = abn.create_model(name, **arguments).eval()
    model = abn.create_model(f"abn_{name}", **arguments).eval()
    parts = model.feature_extractor.state_dict() | model.perception_branch.tail.state_dict()
    plain.load_state_dict(parts)
    images = torch.randn(2, 1, 40, 32)
    zeros = torch.zeros(2, 1, 10, 8)
    assert torch.equal(model(images, attention_map=zeros).perception_logits, plain(images))
    assert model(images).attention_map.shape[-2:] == ((10, 8) if name == "cifar_densenet" else (20, 16))


@pytest.mark.parametrize("name", [*(f"abn_{name}" for name in CIFAR), "abn_se_resnet18"])
def test_network_trains_and_can_be_copied(name):
    model = abn.create_model(name, num_classes=3, **CIFAR.get(name.removeprefix("abn_"), {}))
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 0])
    abn.ABNLoss()(model(images), labels).backward()
    without = [key for key, p in model.named_parameters() if p.grad is None and p.requires_grad]
    assert not without
    model.eval()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(map(torch.equal, twin(images), model(images)))


def test_an_se_resnet_can_have_the_official_code_s_map():
    model = abn.abn_se_resnet18(num_classes=3, map="log_sum").eval()
    features = model.feature_extractor(torch.randn(2, 3, 64, 64))
    responses = model.attention_branch.responses(features)
    _, attention_map = model.attention_branch(features)
    torch.testing.assert_close(attention_map, torch.log(1 + responses).sum(1, keepdim=True))
    assert attention_map.min() >= 0
    excitation = model.feature_extractor.layer1[0].se.fc1
    assert (excitation.in_channels, excitation.out_channels) == (64, 4)  # one sixteenth


def test_norm_that_the_official_resnext_never_applies_is_kept_but_not_applied():
    model = abn.create_model("abn_cifar_resnext", **CIFAR["cifar_resnext"])
    norm = model.attention_branch.norm
    assert isinstance(norm.unapplied, torch.nn.BatchNorm2d)
    assert not any(parameter.requires_grad for parameter in norm.parameters())
    features = torch.randn(2, 1024, 4, 4)
    assert norm(features) is features


def test_stage_of_a_pre_activation_network_is_the_last_stage_alone():
    dense = abn.create_model("abn_cifar_densenet", **CIFAR["cifar_densenet"])
    assert len(dense.attention_branch.stage) == 1
    assert dense.attention_branch.norm.num_features == dense.perception_branch.tail.bn.num_features
    wide = abn.create_model("abn_cifar_wide_resnet", **CIFAR["cifar_wide_resnet"])
    first = wide.attention_branch.stage[0]
    assert (first.conv1.stride, first.shortcut.stride) == ((1, 1), (1, 1))


@pytest.mark.parametrize("name", ["cifar_densenet", "cifar_wide_resnet"])
def test_stage_can_be_chosen(name):
    none = abn.create_model(f"abn_{name}", stage="none", **CIFAR[name])
    assert isinstance(none.attention_branch.stage, torch.nn.Identity)
    stage = torch.nn.Conv2d(none.attention_branch.norm.num_features, 8, 1)
    own = abn.create_model(f"abn_{name}", stage=stage, **CIFAR[name])
    assert own.attention_branch.stage is stage
    assert own.built_with is None  # no name can tell how to build it again


@pytest.mark.parametrize("name", ["cifar_densenet", "cifar_wide_resnet"])
def test_dropout_acts_in_training_alone(name):
    model = abn.create_model(name, dropout=0.5, **CIFAR[name])
    images = torch.randn(2, 3, 32, 32)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("cifar_resnet", {"depth": 21}, r"depth is 21, expected 6n \+ 2: 8, 14, 20, \.\.\."),
        ("cifar_resnet", {"depth": 2}, r"depth is 2, expected 6n \+ 2"),
        ("cifar_densenet", {"depth": 101}, r"depth is 101, expected 6n \+ 4: 10, 16, 22"),
        ("cifar_densenet", {"depth": 10, "compression": 2}, r"compression is 2, expected .* in \(0, 1\]"),
        ("cifar_wide_resnet", {"depth": 29, "widen_factor": 1}, r"depth is 29, expected 6n \+ 4"),
        ("cifar_resnext", {"depth": 30}, r"depth is 30, expected 9n \+ 2: 11, 20, 29"),
    ],
)
def test_network_that_cannot_be_is_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        abn.create_model(name, **arguments)
    with pytest.raises(ValueError, match=message):
        abn.create_model(f"abn_{name}", **arguments)


def test_models_are_listed_by_pattern():
    assert abn.list_models("cifar*") == sorted(CIFAR)
    assert abn.list_models("abn_se_resnet1?") == ["abn_se_resnet18"]
    assert abn.list_models("nothing*") == []
    assert set(abn.list_models()) == set(models.__all__)


def test_unknown_model_offers_similar_ones():
    with pytest.raises(ValueError, match=r"no model 'abn_resnet51', but abn_resnet50, .*; those"):
        abn.create_model("abn_resnet51")
    with pytest.raises(ValueError, match=r"no model 'vit', see abn\.list_models\(\); those"):
        abn.create_model("vit")


def test_name_is_registered_once(monkeypatch):
    monkeypatch.setattr(registry, "_builders", {})

    def cifar_resnet() -> torch.nn.Module:
        return torch.nn.Identity()

    registry.register_model(cifar_resnet)
    with pytest.raises(ValueError, match="a model 'cifar_resnet' is registered already"):
        registry.register_model(cifar_resnet)


def test_network_remembers_how_to_build_it_but_not_what_to_fetch():
    assert abn.abn_resnet18(num_classes=3, progress=False).built_with == {
        "model": "abn_resnet18",
        "num_classes": 3,
    }
    assert abn.abn_cifar_resnet(8).built_with == {
        "model": "abn_cifar_resnet",
        "depth": 8,
        "num_classes": 10,
        "in_channels": 3,
    }


def test_public_names_are_importable_and_documented():
    for name in abn.__all__:
        assert getattr(abn, name).__doc__, name
