"""Weights of a backbone from a local file, and what is known of the data that they were trained on."""

import pytest
import torch
import torchvision
from architectures import build
from safetensors.torch import save_file
from torchvision.models import ResNet18_Weights

from abn import PretrainedAttentionBranch, hub, wrap_backbone
from abn.checkpoint import CheckpointError
from abn.preprocessing import Preprocessing

NAME = "timm/test_resnet"


@pytest.fixture(scope="module")
def weights():
    return build(NAME).state_dict()


def without_counts(weights):
    return {key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")}


WRITTEN = {
    "as it is": lambda weights: weights,
    "state_dict": lambda weights: {"epoch": 3, "state_dict": weights},
    "model": lambda weights: {"epoch": 3, "model": weights, "optimizer": {"state": {}}},
    "module.": lambda weights: {f"module.{key}": value for key, value in weights.items()},
    "model.": lambda weights: {f"model.{key}": value for key, value in weights.items()},
    "_orig_mod.": lambda weights: {f"_orig_mod.{key}": value for key, value in weights.items()},
    "module.model.": lambda weights: {f"module.model.{key}": value for key, value in weights.items()},
    "model.module.": lambda weights: {f"model.module.{key}": value for key, value in weights.items()},
    "without numbers of batches": without_counts,
}


@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
def test_file_is_read_however_a_training_wrote_it(written, weights, tmp_path):
    torch.save(written(weights), tmp_path / "weights.pth")
    model = wrap_backbone(NAME, backbone_weights=tmp_path / "weights.pth").eval()
    plain = build(NAME).eval()
    plain.load_state_dict(weights)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(images, attention_map=torch.ones(1, 1, 1)).perception_logits, plain(images))
    assert isinstance(model.attention_branch, PretrainedAttentionBranch)


def test_safetensors_and_a_module_are_taken_too(weights, tmp_path):
    save_file({key: value.clone() for key, value in weights.items()}, tmp_path / "weights.safetensors")
    backbone = build(NAME)
    before = backbone.conv1[0].weight.clone()
    model = wrap_backbone(backbone, backbone_weights=str(tmp_path / "weights.safetensors"))
    assert torch.equal(model.feature_extractor.conv1[0].weight, weights["conv1.0.weight"])
    assert torch.equal(backbone.conv1[0].weight, before)


@pytest.mark.parametrize(
    "name", ["timm/test_resnet", "timm/test_convnext", "torchvision/resnet18", "torchvision/mobilenet_v2"]
)
def test_file_for_another_number_of_classes_keeps_them(name, tmp_path):
    torch.save(build(name, num_classes=7).state_dict(), tmp_path / "weights.pth")
    with torch.no_grad():
        output = wrap_backbone(name, backbone_weights=tmp_path / "weights.pth").eval()(
            torch.randn(1, 3, 64, 64)
        )
    assert output.perception_logits.shape == output.attention_logits.shape == (1, 7)
    model = wrap_backbone(name, backbone_weights=tmp_path / "weights.pth", num_classes=3)
    assert model.attention_branch.classifier.out_channels == 3


def test_network_of_a_file_for_another_number_of_classes_is_saved_as_such(tmp_path):
    torch.save(build(NAME, num_classes=7).state_dict(), tmp_path / "weights.pth")
    model = wrap_backbone(NAME, backbone_weights=tmp_path / "weights.pth").eval()
    model.save_pretrained(tmp_path / "saved")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for one, other in zip(hub.load(tmp_path / "saved")(images), model(images), strict=True):
            assert torch.equal(one, other)


def test_names_of_the_backbone_that_look_like_a_prefix_are_kept(tmp_path):
    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = build(NAME)

        def forward(self, images):
            return self.model(images)

    torch.save(Wrapper().state_dict(), tmp_path / "weights.pth")
    model = wrap_backbone(Wrapper(), backbone_weights=tmp_path / "weights.pth")
    assert isinstance(model.attention_branch, PretrainedAttentionBranch)


def test_weights_that_do_not_fit_are_all_named_at_once(weights, tmp_path):
    others = dict(weights)
    others["layer9.weight"] = others.pop("conv1.0.weight")
    others["bn1.weight"] = torch.ones(5)
    torch.save(others, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError) as error:
        wrap_backbone(NAME, backbone_weights=tmp_path / "weights.pth")
    message = str(error.value)
    assert "does not hold the weights of this ResNet" in message
    assert "missing: conv1.0.weight" in message
    assert "not part of it: layer9.weight" in message
    assert "of another shape: bn1.weight (5,), expected (" in message


def test_weights_of_another_architecture_are_refused_shortly(tmp_path):
    torch.save(build("torchvision/resnet18").state_dict(), tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="does not hold the weights of this") as error:
        wrap_backbone(NAME, backbone_weights=tmp_path / "weights.pth")
    assert len(str(error.value)) < 1500


def test_nothing_is_unpickled(tmp_path):
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"only code named in the file could restore; it was not run"):
        wrap_backbone(NAME, backbone_weights=tmp_path / "weights.pth")


def test_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="but pretrained ask for others: leave one of them out"):
        wrap_backbone(NAME, backbone_weights="weights.pth", pretrained=True)
    with pytest.raises(TypeError, match="backbone_weights is 3, expected the path of a file"):
        wrap_backbone(NAME, backbone_weights=3)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.pth, expected the weights of"):
        wrap_backbone(NAME, backbone_weights=tmp_path / "none.pth")


def test_tilde_stands_for_the_home_directory(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(weights, tmp_path / "weights.pth")
    wrap_backbone(NAME, backbone_weights="~/weights.pth")


def test_saved_network_does_not_ask_for_the_file(weights, tmp_path):
    torch.save(weights, tmp_path / "weights.pth")
    model = wrap_backbone(NAME, backbone_weights=tmp_path / "weights.pth")
    assert "backbone_weights" not in model.built_with


def test_classes_and_preparation_of_torchvisions_weights_are_known(monkeypatch, tmp_path):
    weights = torchvision.models.resnet18().state_dict()
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda self, **kwargs: weights)
    by_name = wrap_backbone("torchvision/resnet18", weights="DEFAULT")
    file = tmp_path / "resnet18-f37072fd.pth"  # torchvision's own name for it
    torch.save(weights, file)
    by_file = wrap_backbone("torchvision/resnet18", backbone_weights=file)
    for model in (by_name, by_file):
        assert model.classes[:2] == ["tench", "goldfish"]
        assert model.preprocessing == Preprocessing()
    assert wrap_backbone("torchvision/resnet18", backbone_weights=file, num_classes=3).classes is None


def test_name_of_a_file_does_not_name_classes_that_it_has_not(tmp_path):
    file = tmp_path / "resnet18-f37072fd.pth"
    torch.save(torchvision.models.resnet18(num_classes=7).state_dict(), file)
    assert wrap_backbone("torchvision/resnet18", backbone_weights=file).classes is None


def test_classes_of_a_file_of_ones_own_are_not_made_up(tmp_path):
    torch.save(build("torchvision/resnet18").state_dict(), tmp_path / "mine.pth")
    model = wrap_backbone("torchvision/resnet18", backbone_weights=tmp_path / "mine.pth")
    assert model.classes is None
