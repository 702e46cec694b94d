"""With the official code's weights, our ResNets compute what the official code computes.

A case is a JSON file with the official keys and shapes and an NPZ file with the outputs of the official
code, in evaluation mode, for the weights and images that `reference_fill.py` makes from them.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import reference_fill
import torch

import abn
from abn.convert import from_reference, to_reference

DATA = Path(__file__).parent / "data"


def official_weights(case: str) -> dict[str, torch.Tensor]:
    keys = json.loads((DATA / f"{case}.json").read_text())["keys"]
    return {key: torch.from_numpy(value) for key, value in reference_fill.state_dict(keys).items()}


@pytest.mark.parametrize("depth", [18, 50, 152])
def test_outputs_equal_those_of_the_official_code(depth):
    case = f"imagenet_resnet{depth}"
    description = json.loads((DATA / f"{case}.json").read_text())
    model = getattr(abn, f"abn_resnet{depth}")().eval()
    model.load_state_dict(from_reference(official_weights(case)))
    assert sum(parameter.numel() for parameter in model.parameters()) == description["parameters"]

    images = torch.from_numpy(reference_fill.images(description["input_shape"]))
    with torch.inference_mode():
        output = model(images)

    expected = np.load(DATA / f"{case}.npz")
    for name, ours in output._asdict().items():
        theirs = expected[name]
        assert ours.shape == theirs.shape
        assert np.abs(ours.numpy() - theirs).max() / theirs.std() <= 1e-4, name


def test_conversion_there_and_back_changes_nothing():
    official = official_weights("imagenet_resnet18")
    back = to_reference(from_reference(official))
    assert back.keys() == official.keys()
    assert all(torch.equal(back[key], value) for key, value in official.items())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_taken_off(prefix):
    official = official_weights("imagenet_resnet18")
    wrapped = {prefix + key: value for key, value in official.items()}
    abn.abn_resnet18().load_state_dict(from_reference(wrapped))


def test_missing_batch_counts_of_old_pytorch_are_tolerated():
    official = official_weights("imagenet_resnet18")
    old = {key: value for key, value in official.items() if not key.endswith("num_batches_tracked")}
    assert len(old) < len(official)
    abn.abn_resnet18().load_state_dict(from_reference(old))


@pytest.mark.parametrize("key", ["conv1.weight", "att_layer4.0.bn1.running_mean", "bn_att3.bias", "fc.bias"])
def test_other_missing_entries_are_not_tolerated(key):
    official = official_weights("imagenet_resnet18")
    del official[key]
    with pytest.raises(RuntimeError, match="Missing key"):
        abn.abn_resnet18().load_state_dict(from_reference(official))


def test_unknown_entries_are_not_tolerated():
    official = official_weights("imagenet_resnet18") | {"att_conv4.weight": torch.zeros(1)}
    with pytest.raises(RuntimeError, match=r"Unexpected key.*att_conv4\.weight"):
        abn.abn_resnet18().load_state_dict(from_reference(official))


def test_checkpoint_of_another_network_is_refused():
    with pytest.raises(ValueError, match=r"no 'att_conv.weight', but \['epoch', 'state_dict'\]"):
        from_reference({"epoch": 90, "state_dict": {}})
    with pytest.raises(ValueError, match=r"unknown entries \['conv1.weight'\]"):
        to_reference({"conv1.weight": torch.zeros(1)})
