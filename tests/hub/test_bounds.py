"""A stranger's configuration asks for no more than the weights beside it can be of."""

import inspect
import json
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from architectures import ARCHITECTURES, build
from timm.models import build_model_with_cfg

import abn
from abn import hub, wrap_backbone
from abn.hub.bounds import check_bounds

MORE = (
    r"asks for .*"
    r"(but there are \d+ weights, the widest of \d+|than the \d+ weights, of \d+ values, that there are)"
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Two networks, whose configurations the tests change."""
    directory = tmp_path_factory.mktemp("saved")
    wrap_backbone("timm/test_resnet", num_classes=4).save_pretrained(directory / "backbone")
    abn.abn_cifar_resnet(8).save_pretrained(directory / "model")
    return directory


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("backbone", {"num_classes": 5_000_000}),
        ("backbone", {"tasks": 100_000}),
        ("backbone", {"tasks": 9_000, "num_classes": 9_000}),
        ("backbone", {"response_channels": 1_000_000}),
        ("backbone", {"layers": [100_000] * 4}),
        ("backbone", {"layers": [3_000] * 4}),
        ("backbone", {"channels": [9_999] * 4}),
        ("backbone", {"in_chans": 10**9}),
        # Tables that grow with the square of the window and of the image.
        ("backbone", {"backbone": "timm/swin_tiny_patch4_window7_224", "window_size": 42, "img_size": 1344}),
        ("backbone", {"backbone": "timm/resnetv2_152x4_bit"}),
        ("backbone", {"backbone": "torchvision/regnet_y_128gf"}),  # not to be built on the meta device
        ("model", {"depth": 60_002}),
        ("model", {"num_classes": 10**7}),
        ("model", {"model": "abn_cifar_wide_resnet", "widen_factor": 1_000}),
    ],
    ids=str,
)
def test_more_than_the_weights_can_be_of_is_refused_before_it_is_built(
    kind, changes, saved, monkeypatch, tmp_path
):
    config = json.loads((saved / kind / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(saved / kind / "model.safetensors")
    monkeypatch.setattr("abn.hub.configuration.build_network", None)
    with pytest.raises(hub.CheckpointError, match=MORE):
        hub.load(tmp_path)


@pytest.mark.parametrize("size", [[3, 10**6, 64], [10**9, 64, 64]])
def test_images_without_measure_are_refused(size, saved, tmp_path):
    config = json.loads((saved / "backbone" / "config.json").read_text()) | {"input_size": size}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(saved / "backbone" / "model.safetensors")
    with pytest.raises(ValueError, match=r"input_size is .* from 1 to 10000"):
        hub.load(tmp_path)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_weights_of_a_network_are_within_its_own_bounds(name):
    with torch.device("cpu" if "regnet_y_400mf" in name else "meta"):  # it computes when it is built
        weights = build(name).state_dict()
    check_bounds({"backbone": name, "num_classes": 1000, "tasks": None}, weights, Path("here"))


def test_builder_of_a_users_own_may_have_other_numbers(tmp_path):
    @abn.models.registry.register_model
    def network_of_large_images(image_size: int = 224, **kwargs: object) -> abn.ABN:
        return abn.abn_cifar_resnet.__wrapped__(8, **kwargs)

    try:
        network_of_large_images(image_size=500).save_pretrained(tmp_path)
        assert hub.load(tmp_path).built_with["image_size"] == 500
    finally:
        del abn.models.registry._builders["network_of_large_images"]


def test_builders_have_no_argument_that_nobody_has_looked_at():
    """One that fetches something would have to be refused: see WEIGHT_SOURCE_ARGUMENTS and UNSAVED."""
    refused = abn.retrofit.backbones.WEIGHT_SOURCE_ARGUMENTS | abn.saving.UNSAVED
    of_timm = {
        *inspect.signature(timm.create_model).parameters,
        *inspect.signature(build_model_with_cfg).parameters,
    }
    assert of_timm - refused <= {
        *("model_name", "scriptable", "exportable", "no_jit", "kwargs", "model_cls", "variant", "model_cfg"),
        *(
            "feature_cfg",
            "pretrained_strict",
            "pretrained_filter_fn",
            "kwargs_filter",
            "pretrained_model_args",
        ),
    }
    names = torchvision.models.list_models(module=torchvision.models)
    builders = map(torchvision.models.get_model_builder, names)
    of_torchvision = {name for builder in builders for name in inspect.signature(builder).parameters}
    assert of_torchvision - refused <= {"kwargs"}
