"""Saving and loading without pickle, and without the backbone's own weights."""

import json
from pathlib import Path
from unittest.mock import create_autospec

import huggingface_hub
import pytest
import torch
import torchvision
from architectures import FAMILIES, ONE_SIZE, TOKENS, build
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from abn import abn_resnet18, hub, wrap_backbone
from abn.model_card import model_card
from abn.models import registry
from abn.network import ABN


def assert_equal(ours: ABN, theirs: ABN, size: int = 64) -> None:
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        for one, other in zip(ours(images), theirs(images), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("name", FAMILIES)
def test_network_built_by_name_comes_back_equal(name, tmp_path):
    model = wrap_backbone(
        name, **{**TOKENS.get(name, {}), "num_classes": 7}, mechanism="multiplicative"
    ).eval()
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    loaded = hub.load(tmp_path)
    assert not any(module.training for module in loaded.modules())
    assert loaded.perception_branch.mechanism == "multiplicative"
    assert loaded.built_with == model.built_with
    assert_equal(loaded, model, size=ONE_SIZE.get(name, 160))


@pytest.mark.parametrize(
    "model",
    [
        lambda: abn_resnet18(num_classes=5),
        lambda: wrap_backbone("torchvision/resnet18", stage="none", split="layer2"),
        lambda: wrap_backbone("torchvision/resnet18", stage="light", num_classes=100),
        lambda: wrap_backbone("timm/test_convnext", in_chans=5, drop_path_rate=0.1, input_size=(5, 64, 64)),
    ],
)
def test_arguments_come_back(model, tmp_path):
    model = model()
    model.save_pretrained(tmp_path / "deeper" / "still")
    loaded = hub.load(str(tmp_path / "deeper" / "still"))
    assert str(loaded) == str(model.eval())
    assert loaded.state_dict().keys() == model.state_dict().keys()


def test_loading_fetches_no_weights(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("something was fetched")

    weights = torchvision.models.GoogLeNet_Weights.DEFAULT
    state = build("torchvision/googlenet", aux_logits=True).state_dict()
    monkeypatch.setattr(torchvision.models._api.WeightsEnum, "get_state_dict", lambda *args, **kwargs: state)
    model = wrap_backbone("torchvision/googlenet", weights=weights).eval()
    assert "weights" not in model.built_with
    assert model.built_with["transform_input"]  # which torchvision sets for these weights
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(torchvision.models._api.WeightsEnum, "get_state_dict", fail)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    assert_equal(hub.load(tmp_path), model, size=96)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchvision/swin_t", "timm/efficientformer_l1"])
def test_network_with_buffers_of_whole_numbers_comes_back_equal(name, tmp_path):
    model = wrap_backbone(name, num_classes=3).eval()
    assert any(not value.is_floating_point() and value.ndim for value in model.state_dict().values())
    model.save_pretrained(tmp_path)
    assert_equal(hub.load(tmp_path), model, size=224)


@pytest.mark.parametrize(
    ("arguments", "classes"),
    [
        *(
            ({"num_classes": 3}, classes)
            for classes in ([0, 1, 2], range(3), {"a": 0, "b": 1, "c": 2}, {"a", "b", "c"}, "abc", ("a", "b"))
        ),
        ({"tasks": 2, "num_classes": 3}, ["a", "b", "c"]),
    ],
)
def test_classes_that_are_not_a_name_for_each_are_refused_when_they_are_saved(arguments, classes, tmp_path):
    model = wrap_backbone("timm/test_resnet", **arguments)
    model.classes = classes
    with pytest.raises(
        ValueError, match=r"model\.classes is .*, expected a list of \d names, of the (tasks|classes) in"
    ):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_weights_that_are_elsewhere_are_not_saved(tmp_path):
    model = wrap_backbone("timm/test_resnet", num_classes=3).to("meta")
    with pytest.raises(ValueError, match=r"\d+ weights, such as feature_extractor.*, are on the meta device"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_preparation_of_another_kind_is_refused(tmp_path):
    model = wrap_backbone("timm/test_resnet", num_classes=3)
    model.preprocessing = torch.nn.Identity()
    with pytest.raises(
        ValueError, match=r"model\.preprocessing is a Identity, expected a Preprocessing, or None"
    ):
        model.save_pretrained(tmp_path)


def test_network_with_a_branch_of_another_kind_is_refused(tmp_path):
    model = wrap_backbone("timm/test_resnet", num_classes=3)
    model.attention_branch = nn.Identity()
    with pytest.raises(
        ValueError, match="the network has a Identity and a PerceptionBranch, of which one took"
    ):
        model.save_pretrained(tmp_path)


def test_network_with_tied_weights_comes_back_equal(tmp_path, monkeypatch):
    class Tied(torch.nn.Sequential):
        def __init__(self, num_classes: int = 4) -> None:
            twin = torch.nn.Conv2d(8, 8, 3, padding=1)
            other = torch.nn.Conv2d(8, 8, 3, padding=1)
            other.weight = twin.weight
            head = (torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, num_classes))
            super().__init__(torch.nn.Conv2d(3, 8, 3, 2), twin, other, torch.nn.MaxPool2d(3), *head)

    monkeypatch.setattr(registry, "_builders", {})

    @registry.register_model
    def abn_tied(**kwargs: object) -> ABN:
        return wrap_backbone(Tied(), split="0", input_size=64, **kwargs)

    model = abn_tied().eval()
    model.save_pretrained(tmp_path)
    loaded = hub.load(tmp_path)
    assert_equal(loaded, model)
    assert (
        loaded.perception_branch.tail.get_submodule("1").weight
        is loaded.perception_branch.tail.get_submodule("2").weight
    )


def test_network_built_from_modules_is_not_saved(tmp_path):
    for model in (
        wrap_backbone(build("timm/test_resnet")),
        wrap_backbone("timm/test_resnet", stage=torch.nn.Conv2d(192, 8, 1)),
    ):
        with pytest.raises(ValueError, match=r"built from modules, .* save its state_dict"):
            model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_argument_that_json_cannot_hold_is_not_saved(tmp_path):
    model = wrap_backbone("torchvision/resnet18", norm_layer=torch.nn.BatchNorm2d)
    with pytest.raises(ValueError, match=r"norm_layer is <class .*BatchNorm2d'>, which JSON cannot hold"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_files_are_as_readable_as_others(tmp_path):
    (tmp_path / "other").touch()
    wrap_backbone("timm/test_resnet").save_pretrained(tmp_path)
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


def test_file_is_replaced_in_one_step(tmp_path, monkeypatch):
    model = wrap_backbone("timm/test_resnet")
    model.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def breaks_off(model, path, **arguments):
        with open(path, "w") as file:
            file.write("half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr("abn.saving.save_model", breaks_off)
    with pytest.raises(OSError, match="no space"):
        model.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_directory_without_the_files_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json and no model\.safetensors, expected"):
        hub.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": None}, "names neither a model nor a backbone, expected what save_pretrained"),
        ({"pretrained": True}, r"asks for \['pretrained'\], but all weights are in model\.safetensors"),
        ({"backbone": "timm/resnet55"}, "does not build a network: timm has no classifier 'resnet55'"),
        ({"unheard_of": 1}, "does not build a network: .* unexpected keyword argument"),
    ],
)
def test_changed_configuration_is_refused(change, message, tmp_path):
    model = wrap_backbone("timm/test_resnet")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=message):
        hub.load(tmp_path)


def test_missing_weight_is_named(tmp_path):
    wrap_backbone("timm/test_resnet").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["attention_branch.classifier.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(hub.CheckpointError, match=r"missing: attention_branch\.classifier\.weight$"):
        hub.load(tmp_path)


@pytest.mark.parametrize("settings", [{}, {"private": True, "token": "secret"}])
def test_pushes_what_it_saves(settings, monkeypatch):
    api = create_autospec(huggingface_hub.HfApi)
    pushed = []
    api.return_value.file_exists.return_value = False
    api.return_value.upload_folder.side_effect = lambda repo_id, folder_path: pushed.extend(
        [hub.load(folder_path), ModelCard.load(Path(folder_path, "README.md"))]
    )
    monkeypatch.setattr(huggingface_hub, "HfApi", api)
    model = wrap_backbone("timm/test_resnet").eval()
    model.classes = [f"class {number}" for number in range(1000)]
    facts = {"license": "apache-2.0", "dataset": "cells", "accuracy": 0.875}
    model.push_to_hub("me/mine", **settings, **facts)
    api.assert_called_once_with(token=settings.get("token"))
    api.return_value.create_repo.assert_called_once_with(
        "me/mine", private=settings.get("private"), exist_ok=True
    )
    loaded, card = pushed
    assert_equal(loaded, model)
    assert (card.data.library_name, card.data.pipeline_tag) == ("abn", "image-classification")
    assert (card.data.license, card.data.datasets) == ("apache-2.0", ["cells"])
    assert card.data.eval_results[0].metric_value == 0.875
    for text in ("`timm/test_resnet`", "87.5%", "class 9 and 990 more", 'abn.hub.load("me/mine")'):
        assert text in card.text


def test_card_of_somebody_is_kept_and_says_what_is_not_known(monkeypatch):
    api = create_autospec(huggingface_hub.HfApi)
    files = []
    api.return_value.upload_folder.side_effect = lambda repo_id, folder_path: files.extend(
        path.name for path in Path(folder_path).iterdir()
    )
    monkeypatch.setattr(huggingface_hub, "HfApi", api)
    model = wrap_backbone("timm/test_resnet").eval()
    api.return_value.file_exists.return_value = True
    model.push_to_hub("me/mine")
    assert sorted(files) == ["config.json", "model.safetensors"]
    card = model_card(model, "me/mine")
    assert "| trained with | not known |" in card
    assert "| licence of the weights | not stated |" in card
    with pytest.raises(ValueError, match=r"accuracy is 87\.5, expected 0 to 1"):
        model.push_to_hub("me/mine", accuracy=87.5)


@pytest.mark.parametrize(
    "arguments", [{}, {"tasks": 2}, {"tasks": 2, "map": "response"}, {"map": "log_sum"}, {"num_classes": 1}]
)
def test_code_of_the_card_runs(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = wrap_backbone("timm/test_resnet", **{"start": "new", **arguments}).eval()
    if "tasks" in arguments:
        model.classes = ["one | or", "an\nother"]
    model.save_pretrained("me/mine")
    Image.new("RGB", (320, 240)).save("photo.jpg")
    card = model_card(model, "me/mine", dataset="a|b")
    exec(card.split("```python\n")[1].split("```")[0], {})
    assert len(list(tmp_path.glob("*.png"))) == 1
    table = [line for line in card.splitlines() if line.startswith("| ")]
    assert {line.replace("\\|", "").count("|") for line in table} == {3}


def test_mechanism_is_saved_as_it_is_now(tmp_path):
    model = wrap_backbone("timm/test_resnet").eval()
    model.perception_branch.mechanism = "multiplicative"
    model.save_pretrained(tmp_path)
    assert_equal(hub.load(tmp_path), model)


def test_arguments_that_may_name_weights_are_not_saved(tmp_path):
    model = wrap_backbone("timm/test_resnet", pretrained_cfg_overlay={"num_classes": 10})
    with pytest.raises(ValueError, match="was built with pretrained_cfg_overlay, which may name weights"):
        model.save_pretrained(tmp_path)
