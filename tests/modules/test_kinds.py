"""Kinds of maps, mechanisms and stages: each is one entry of one table."""

import json
import logging

import pytest
import torch
from torch import nn

import abn
from abn import AttentionBranch, PerceptionBranch, hub, wrap_backbone
from abn.modules.maps import MAPS, MapKind
from abn.modules.mechanisms import MECHANISMS, Mechanism
from abn.retrofit.stages import STAGES

IMAGES = torch.randn(2, 3, 64, 64)


def test_one_entry_makes_another_kind_of_map(monkeypatch, tmp_path):
    monkeypatch.setitem(
        MAPS, "flat", MapKind("flat", of_evidence=lambda evidence: torch.full_like(evidence, 0.5))
    )
    model = wrap_backbone("timm/test_resnet", map="flat", num_classes=3).eval()
    assert model(IMAGES).attention_map.unique().tolist() == [0.5]
    model.save_pretrained(tmp_path)
    assert hub.load(tmp_path).attention_branch.map == "flat"


def test_one_entry_makes_another_mechanism(monkeypatch, tmp_path):
    monkeypatch.setitem(
        MECHANISMS, "blind", Mechanism("blind", lambda features, attended: features, neutral=0.5)
    )
    features = torch.randn(2, 8, 6, 9)
    assert torch.equal(PerceptionBranch(nn.Identity(), "blind")(features, torch.rand(2, 1, 6, 9)), features)
    wrap_backbone("timm/test_resnet", mechanism="blind").save_pretrained(tmp_path)
    assert hub.load(tmp_path).perception_branch.mechanism == "blind"


def test_one_entry_makes_another_kind_of_stage(monkeypatch, tmp_path):
    monkeypatch.setitem(STAGES, "rectified", lambda parts: nn.ReLU())
    model = wrap_backbone("timm/test_resnet", stage="rectified")
    assert isinstance(model.attention_branch.stage, nn.ReLU)
    model.save_pretrained(tmp_path)
    assert isinstance(hub.load(tmp_path).attention_branch.stage, nn.ReLU)


@pytest.mark.parametrize("mechanism", MECHANISMS.values(), ids=MECHANISMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neutral_map_leaves_the_features_bit_for_bit(mechanism, dtype):
    features = torch.randn(2, 8, 6, 9).to(dtype)
    neutral = torch.full((2, 1, 6, 9), mechanism.neutral, dtype=dtype)
    assert torch.equal(PerceptionBranch(nn.Identity(), mechanism.name)(features, neutral), features)


def test_dimming_halves_the_features_where_the_map_is_0():
    features = torch.randn(2, 8, 6, 9)
    attended = PerceptionBranch(nn.Identity(), "dimming")(features, torch.zeros(2, 1, 6, 9))
    assert torch.equal(attended, features / 2)


NEW = {"stage": "copy", "start": "new", "map": "class_activation", "mechanism": "residual"}


@pytest.mark.parametrize("arguments", [{}, {"map": "convolution"}, {"map": "log_sum"}])
def test_backbone_without_weights_makes_the_network_that_it_made_in_version_0_1(arguments):
    model = wrap_backbone("timm/test_resnet", **arguments)
    assert {key: model.built_with[key] for key in NEW} == NEW | arguments
    assert isinstance(model.attention_branch, AttentionBranch)


@pytest.mark.parametrize(
    "arguments", [{"map": "class_activation"}, {"map": "convolution"}, {"stage": "light", "map": "log_sum"}]
)
def test_directory_of_version_0_1_is_the_network_that_it_was(arguments, tmp_path):
    model = wrap_backbone("timm/test_resnet", **NEW | arguments).eval()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["start"]  # which that version did not know
    (tmp_path / "config.json").write_text(json.dumps(config))
    with torch.no_grad():
        for one, other in zip(hub.load(tmp_path)(IMAGES), model(IMAGES), strict=True):
            assert torch.equal(one, other)


def test_builders_directory_of_version_0_1_is_the_network_that_it_was(tmp_path):
    model = abn.abn_resnet18(num_classes=3).eval()
    model.save_pretrained(tmp_path)
    written = {"model": "abn_resnet18", "num_classes": 3, "map": "class_activation", "mechanism": "residual"}
    (tmp_path / "config.json").write_text(json.dumps(written))
    with torch.no_grad():
        for one, other in zip(hub.load(tmp_path)(IMAGES), model(IMAGES), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["class_activation", "evidence", "log_sum"])
@pytest.mark.parametrize("stage", ["copy", "dense"])
def test_bare_state_dict_is_told_its_kind_of_map(kind, stage, tmp_path, caplog):
    model = abn.abn_resnet18(num_classes=3, map=kind, stage=stage).eval()
    torch.save(model.state_dict(), tmp_path / "model.pth")
    with torch.no_grad():
        loaded = hub.load(tmp_path / "model.pth", map=kind)
        assert torch.equal(loaded(IMAGES).attention_map, model(IMAGES).attention_map)
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "abn.hub"):
        assert hub.load(tmp_path / "model.pth").attention_branch.map == "class_activation"
    assert "does not tell its kind of map: taken for class_activation; give map=" in caplog.text


def test_bare_state_dict_without_numbers_of_batches_is_completed(tmp_path):
    model = abn.abn_resnet18(num_classes=3).eval()
    weights = {key: value for key, value in model.state_dict().items() if not key.endswith("_tracked")}
    torch.save(weights, tmp_path / "model.pth")
    with torch.no_grad():
        assert torch.equal(
            hub.load(tmp_path / "model.pth")(IMAGES).attention_map, model(IMAGES).attention_map
        )


def test_bare_state_dict_of_a_pretrained_start_does_not_tell_its_backbone(tmp_path):
    torch.save(abn.abn_resnet18(num_classes=3, start="pretrained").state_dict(), tmp_path / "model.pth")
    with pytest.raises(abn.hub.CheckpointError, match=r"not which backbone: .* save_pretrained\(\)"):
        hub.load(tmp_path / "model.pth")


def test_unknown_kind_of_map_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="map is 'softmax', expected one of 'evidence', "):
        hub.load("abn_resnet50", map="softmax")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": "old"}, "start is 'old', expected 'pretrained' or 'new'"),
        ({"start": "pretrained", "stage": "light"}, r"reads the output of stage='dense', and of no other"),
        ({"start": "pretrained", "map": "log_sum"}, "map='log_sum' needs layers that no backbone has"),
        ({"start": "pretrained", "response_channels": 4}, "response_channels=4 is the width of new layers"),
        ({"start": "pretrained", "tasks": 4}, "with tasks= the heads are new"),
    ],
)
def test_start_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        wrap_backbone("timm/test_resnet", **arguments)
