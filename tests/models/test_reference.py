"""With the official code's weights, our networks compute what the official code computes.

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
from abn.hub.official import architecture, from_reference, to_reference

DATA = Path(__file__).parents[1] / "data"
CASES = {
    "imagenet_resnet18": ("abn_resnet18", {}),
    "imagenet_resnet50": ("abn_resnet50", {}),
    "imagenet_resnet152": ("abn_resnet152", {}),
    "imagenet_se_resnet18": ("abn_se_resnet18", {}),
    "imagenet_se_resnet50": ("abn_se_resnet50", {}),
    "cifar_resnet20": ("abn_cifar_resnet", {"depth": 20}),
    "cifar_resnet110": ("abn_cifar_resnet", {"depth": 110}),
    "cifar_densenet100_k12": ("abn_cifar_densenet", {"depth": 100, "growth_rate": 12, "compression": 0.5}),
    "cifar_wrn16_4": ("abn_cifar_wide_resnet", {"depth": 16, "widen_factor": 4}),
    "cifar_wrn28_10": ("abn_cifar_wide_resnet", {"depth": 28, "widen_factor": 10}),
    "cifar_resnext29_8x64d": ("abn_cifar_resnext", {"depth": 29, "cardinality": 8, "base_width": 64}),
}
MULTITASK_CASES = {
    "multitask_v1_resnet18_residual": ("abn_resnet18", {"num_classes": None, "map": "response"}),
    "multitask_v1_resnet101": ("abn_resnet101", {"num_classes": None, "map": "response"}),
    "multitask_v2_resnet18": ("abn_resnet18", {"num_classes": 2, "map": "scaled_response"}),
    "multitask_v2_resnet18_residual": ("abn_resnet18", {"num_classes": 2, "map": "scaled_response"}),
}


def description(case: str) -> dict:
    return json.loads((DATA / f"{case}.json").read_text())


def official_weights(case: str) -> dict[str, torch.Tensor]:
    keys = description(case)["keys"]
    return {key: torch.from_numpy(value) for key, value in reference_fill.state_dict(keys).items()}


@pytest.mark.parametrize("case", [*CASES, *MULTITASK_CASES])
def test_outputs_equal_those_of_the_official_code(case):
    official = official_weights(case)
    name, arguments = architecture(official)
    if description(case)["arguments"].get("residual_attention"):
        arguments["mechanism"] = "residual"  # which the weights do not tell
    model = abn.create_model(name, **arguments).eval()
    model.load_state_dict(from_reference(official))
    assert sum(parameter.numel() for parameter in model.parameters()) == description(case)["parameters"]

    images = torch.from_numpy(reference_fill.images(description(case)["input_shape"]))
    with torch.inference_mode():
        output = model(images)

    expected = np.load(DATA / f"{case}.npz")
    for name, ours in output._asdict().items():
        theirs = expected[name]
        assert ours.shape == theirs.shape
        assert np.abs(ours.numpy() - theirs).max() / theirs.std() <= 1e-4, name


@pytest.mark.parametrize("case", CASES)
def test_architecture_is_read_off_the_shapes(case):
    with torch.device("meta"):
        official = {key: torch.empty(shape) for key, shape in description(case)["keys"].items()}
    name, arguments = CASES[case]
    num_classes = description(case)["arguments"].get("num_classes", 1000)
    in_channels = {} if "imagenet" in case else {"in_channels": 3}
    arguments = {**arguments, "map": "log_sum" if "se_" in case else "convolution"}
    assert architecture(official) == (name, {**arguments, "num_classes": num_classes, **in_channels})


@pytest.mark.parametrize("case", MULTITASK_CASES)
def test_several_tasks_are_read_off_the_shapes(case):
    with torch.device("meta"):
        official = {key: torch.empty(shape) for key, shape in description(case)["keys"].items()}
    name, arguments = MULTITASK_CASES[case]
    assert architecture(official) == (name, {"tasks": 40, **arguments, "mechanism": "multiplicative"})


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("abn_resnet34", {}),
        pytest.param("abn_resnet101", {}, marks=pytest.mark.slow),
        ("abn_se_resnet34", {}),
        pytest.param("abn_se_resnet152", {}, marks=pytest.mark.slow),
        ("abn_cifar_resnet", {"depth": 8, "in_channels": 1}),
        ("abn_cifar_resnet", {"depth": 38, "in_channels": 4}),
        ("abn_cifar_resnet", {"depth": 44, "in_channels": 3}),
        ("abn_cifar_densenet", {"depth": 10, "growth_rate": 7, "compression": 0.5, "in_channels": 3}),
        ("abn_cifar_wide_resnet", {"depth": 10, "widen_factor": 1, "in_channels": 3}),
        ("abn_cifar_wide_resnet", {"depth": 22, "widen_factor": 8, "in_channels": 1}),
        ("abn_cifar_resnext", {"depth": 11, "cardinality": 1, "base_width": 4, "in_channels": 3}),
        ("abn_cifar_resnext", {"depth": 20, "cardinality": 16, "base_width": 24, "in_channels": 2}),
    ],
)
def test_other_depths_and_widths_go_both_ways(name, arguments):
    arguments = {**arguments, "num_classes": 7, "map": "log_sum" if "_se_" in name else "convolution"}
    with torch.device("meta"):
        model = abn.create_model(name, **arguments)
    official = to_reference(model.state_dict())
    assert architecture(official) == (name, arguments)
    shapes = {key: value.shape for key, value in from_reference(official).items()}
    assert shapes == {key: value.shape for key, value in model.state_dict().items()}


@pytest.mark.parametrize("map", ["response", "scaled_response"])
@pytest.mark.parametrize("num_classes", [None, 2])
@pytest.mark.parametrize("tasks", [1, 12])
def test_any_number_of_tasks_goes_both_ways(map, num_classes, tasks):
    arguments = {"tasks": tasks, "num_classes": num_classes, "map": map, "mechanism": "multiplicative"}
    with torch.device("meta"):
        model = abn.abn_resnet34(**arguments)
    official = to_reference(model.state_dict())
    assert architecture(official) == ("abn_resnet34", arguments)
    shapes = {key: value.shape for key, value in from_reference(official).items()}
    assert shapes == {key: value.shape for key, value in model.state_dict().items()}


@pytest.mark.parametrize("num_classes", [1, 3000])
def test_official_networks_have_one_response_per_class_whatever_our_default(num_classes):
    arguments = {"num_classes": num_classes, "response_channels": num_classes, "map": "convolution"}
    with torch.device("meta"):
        model = abn.abn_resnet18(**arguments)
    assert architecture(to_reference(model.state_dict())) == ("abn_resnet18", arguments)


@pytest.mark.parametrize(
    "change", [{"output_per.7.bias": None}, {"output_per.7.weight": (3, 512)}, {"output_per.7.bias": ()}]
)
def test_heads_that_are_not_alike_are_refused(change):
    shapes = description("multitask_v2_resnet18")["keys"] | change
    with torch.device("meta"):
        official = {key: torch.empty(shape) for key, shape in shapes.items() if shape is not None}
    with pytest.raises(ValueError, match=r"expected one output_per\.N\.(weight|bias) for each task"):
        from_reference(official)


@pytest.mark.parametrize("compression", [0.17, 1 / 3, 0.5, 0.7, 1.0])
def test_compression_is_read_as_one_that_makes_the_same_network(compression):
    with torch.device("meta"):
        model = abn.abn_cifar_densenet(10, 7, compression=compression, map="convolution")
        name, arguments = architecture(to_reference(model.state_dict()))
        again = abn.create_model(name, **arguments)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert shapes == {key: value.shape for key, value in again.state_dict().items()}


@pytest.mark.parametrize(
    "case",
    [
        *("imagenet_resnet18", "imagenet_se_resnet18", "cifar_resnet20", "cifar_wrn16_4"),
        *("multitask_v1_resnet18_residual", "multitask_v2_resnet18"),
    ],
)
def test_conversion_there_and_back_changes_nothing(case):
    official = official_weights(case)
    back = to_reference(from_reference(official))
    assert back.keys() == official.keys()
    assert all(torch.equal(back[key], value) for key, value in official.items())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_taken_off(prefix):
    official = official_weights("cifar_resnet20")
    wrapped = {prefix + key: value for key, value in official.items()}
    name, arguments = architecture(wrapped)
    abn.create_model(name, **arguments).load_state_dict(from_reference(wrapped))


def test_missing_batch_counts_of_old_pytorch_are_tolerated():
    official = official_weights("cifar_resnet20")
    old = {key: value for key, value in official.items() if not key.endswith("num_batches_tracked")}
    assert len(old) < len(official)
    abn.abn_cifar_resnet(20, num_classes=100, map="convolution").load_state_dict(from_reference(old))


@pytest.mark.parametrize("key", ["conv1.weight", "att_layer3.0.bn1.running_mean", "bn_att3.bias", "fc.bias"])
def test_other_missing_entries_are_not_tolerated(key):
    official = official_weights("cifar_resnet20")
    del official[key]
    with pytest.raises(RuntimeError, match="Missing key"):
        abn.abn_cifar_resnet(20, num_classes=100, map="convolution").load_state_dict(from_reference(official))


def test_unknown_entries_are_not_tolerated():
    official = official_weights("cifar_resnet20") | {"att_conv4.weight": torch.zeros(1)}
    with pytest.raises(RuntimeError, match=r"Unexpected key.*att_conv4\.weight"):
        abn.abn_cifar_resnet(20, num_classes=100, map="convolution").load_state_dict(from_reference(official))


def test_checkpoint_of_another_network_is_refused():
    with pytest.raises(ValueError, match=r"holds \['epoch', 'state_dict'\], .* expected"):
        from_reference({"epoch": torch.zeros(1), "state_dict": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"unknown entries \['conv1.weight'\]"):
        to_reference({"conv1.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trans1.conv1.weight": None}, "not complete.*trans1.conv1.weight"),
        ({"trans2.conv1.weight": (99, 300, 1, 1)}, "no compression makes"),
        ({"att_conv2.weight": (7, 8, 1, 1)}, "expected as many outputs of the one as inputs"),
        ({"conv1.weight": ()}, "not complete"),
    ],
)
def test_shapes_that_make_no_sense_are_refused(change, message):
    shapes = description("cifar_densenet100_k12")["keys"] | change
    with torch.device("meta"):
        official = {key: torch.empty(shape) for key, shape in shapes.items() if shape is not None}
    with pytest.raises(ValueError, match=message):
        architecture(official)


def test_imagenet_resnet_of_no_known_depth_is_refused():
    keys = {
        key: shape for key, shape in description("imagenet_resnet18")["keys"].items() if "layer2.1" not in key
    }
    with torch.device("meta"), pytest.raises(ValueError, match=r"no ResNet has stages of \(2, 1, 2, 2\)"):
        architecture({key: torch.empty(shape) for key, shape in keys.items()})
