"""How the official code names the weights of each family of networks, and what their shapes tell.

The official code is ``machine-perception-robotics-group/attention_branch_network`` and, for several tasks,
``machine-perception-robotics-group/ABN_CelebA_PyTorch``. A new family needs a builder in :mod:`abn.models`,
and a :class:`Layout` here.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from abn.modules.attention import default_response_channels

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each entry of a state dict with the official names."""


@dataclass(frozen=True)
class Layout:
    """How the names of weights in one family of the official code match the names here."""

    official_mark: str
    """Official name of an entry that marks the family. If several layouts fit, the first one counts."""
    mark: str
    """Name here of an entry that marks the family. If several layouts fit, the first one counts."""
    prefixes: Mapping[str, str]
    """Beginnings of names, official to ours. If several fit a name, the longest counts."""
    architecture: Callable[[Shapes], tuple[str, dict[str, Any]]]
    """Reads off the shapes the name and arguments for :func:`abn.create_model`."""
    inner: Mapping[str, str] = field(default_factory=dict)
    """Names within a block, official to ours."""
    pointwise: str = r"(?!)"
    """Pattern of our names of weights (C', C, 1, 1) that have the shape (C', C) in the official code."""
    heads: str | None = None
    """Beginning of the official names of the tasks' linear layers (K, C), before the number of the task.
    Here these layers are one (K·T, C). None for families with one task."""


_HEADS = {
    "": "feature_extractor.",
    "bn_att.": "attention_branch.norm.",
    "att_conv.": "attention_branch.response_conv.",
    "bn_att2.": "attention_branch.response_norm.",
    "att_conv2.": "attention_branch.classifier.",
    "att_conv3.": "attention_branch.map_conv.",
    "bn_att3.": "attention_branch.map_norm.",
    "fc.": "perception_branch.tail.fc.",
}


def _resnet(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    return _depth(shapes), _classes(shapes)


def _depth(shapes: Shapes) -> str:
    """Returns the name of an ImageNet ResNet, which the number and the kind of its blocks tell."""
    blocks = tuple(_blocks(shapes, rf"layer{i}\.(\d+)\.") for i in (1, 2, 3, 4))
    depths: dict[tuple[int, ...], int] = {  # blocks of each stage, and whether they are bottlenecks
        (2, 2, 2, 2, False): 18,
        (3, 4, 6, 3, False): 34,
        (3, 4, 6, 3, True): 50,
        (3, 4, 23, 3, True): 101,
        (3, 8, 36, 3, True): 152,
    }
    depth = depths.get((*blocks, "layer1.0.conv3.weight" in shapes))
    if depth is None:
        raise ValueError(f"no ResNet has stages of {blocks} blocks, expected those of ResNet-18 to -152")
    squeeze_excitation = "layer1.0.fc1.weight" in shapes
    return f"abn_{'se_' if squeeze_excitation else ''}resnet{depth}"


def _multitask_resnet(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    scaled = "depth_conv.weight" in shapes
    tasks = shapes["att_conv.weight" if scaled else "conv_att.weight"][0]
    num_classes = shapes["output_per.0.weight"][0]
    if num_classes not in (1, 2):
        raise ValueError(f"each task has {num_classes} outputs, expected one, or two for no and yes")
    return _depth(shapes), {
        "tasks": tasks,
        "num_classes": None if num_classes == 1 else num_classes,
        "map": "scaled_response" if scaled else "response",
        "mechanism": "multiplicative",  # as in the published weights: no weight tells it
    }


def _cifar_resnet(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    depth = 6 * _blocks(shapes, r"layer1\.(\d+)\.") + 2
    return "abn_cifar_resnet", {"depth": depth, **_classes(shapes), **_channels(shapes, "conv1.weight")}


def _cifar_resnext(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    width, base_width, *_ = shapes["stage_1.stage_1_bottleneck_0.conv_conv.weight"]
    return "abn_cifar_resnext", {
        "depth": 9 * _blocks(shapes, r"stage_1\.stage_1_bottleneck_(\d+)\.") + 2,
        "cardinality": width // base_width,
        "base_width": base_width,
        **_classes(shapes),
        **_channels(shapes, "conv_1_3x3.weight"),
    }


def _cifar_wide_resnet(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    return "abn_cifar_wide_resnet", {
        "depth": 6 * _blocks(shapes, r"block1\.layer\.(\d+)\.") + 4,
        "widen_factor": shapes["block1.layer.0.conv1.weight"][0] // 16,
        **_classes(shapes),
        **_channels(shapes, "conv1.weight"),
    }


def _cifar_densenet(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    return "abn_cifar_densenet", {
        "depth": 6 * _blocks(shapes, r"dense1\.(\d+)\.") + 4,
        "growth_rate": shapes["dense1.0.conv2.weight"][0],
        "compression": _compression([shapes[f"trans{i}.conv1.weight"][:2] for i in (1, 2)]),
        **_classes(shapes),
        **_channels(shapes, "conv1.weight"),
    }


def _compression(transitions: list[tuple[int, ...]]) -> float:
    """Returns the share with the smallest denominator that makes each transition's outputs of its inputs."""
    outputs, inputs = transitions[0]
    for denominator in range(1, inputs + 1):
        share = math.ceil(denominator * outputs / inputs) / denominator
        if all(int(share * received) == kept for kept, received in transitions):
            return share
    raise ValueError(f"no compression makes transitions of {transitions} (outputs, inputs) channels")


def _blocks(shapes: Shapes, pattern: str) -> int:
    return len({match[1] for key in shapes if (match := re.match(pattern, key))})


def _classes(shapes: Shapes) -> dict[str, int]:
    """Returns the number of classes, and the number of responses if it is not our default.

    The official code has one response for each class.
    """
    responses, (num_classes, read) = shapes["att_conv.weight"][0], shapes["att_conv2.weight"][:2]
    if read != responses:
        raise ValueError(
            f"att_conv.weight is {tuple(shapes['att_conv.weight'])} and att_conv2.weight "
            f"{tuple(shapes['att_conv2.weight'])}, expected as many outputs of the one as inputs of the other"
        )
    if responses == default_response_channels(num_classes):
        return {"num_classes": num_classes}
    return {"num_classes": num_classes, "response_channels": responses}


def _channels(shapes: Shapes, stem: str) -> dict[str, int]:
    return {"in_channels": shapes[stem][1]}


_MULTITASK = {
    "": "feature_extractor.",
    "layer4.": "perception_branch.tail.layer4.",
    "layer4_att.": "attention_branch.stage.layer4.",
    "fc.": "perception_branch.tail.fc.",
}
_IMAGENET = _HEADS | {
    "att_layer4.": "attention_branch.stage.layer4.",
    "layer4.": "perception_branch.tail.layer4.",
}

LAYOUTS = (
    Layout(
        official_mark="depth_conv.weight",
        mark="attention_branch.depth_conv.weight",
        prefixes=_MULTITASK
        | {
            "att_conv.": "attention_branch.task_conv.",
            "depth_conv.": "attention_branch.depth_conv.",
        },
        heads="output_per.",
        architecture=_multitask_resnet,
    ),
    Layout(
        official_mark="conv_att.weight",
        mark="attention_branch.task_conv.weight",
        prefixes=_MULTITASK | {"conv_att.": "attention_branch.task_conv."},
        heads="output_per.",
        architecture=_multitask_resnet,
    ),
    Layout(
        official_mark="att_layer4.0.fc1.weight",
        mark="perception_branch.tail.layer4.0.se.fc1.weight",
        prefixes=_IMAGENET,
        inner={"fc1": "se.fc1", "fc2": "se.fc2"},
        pointwise=r".*\.se\.fc[12]\.weight",
        architecture=_resnet,
    ),
    Layout(
        official_mark="att_layer4.0.conv1.weight",
        mark="perception_branch.tail.layer4.0.conv1.weight",
        prefixes=_IMAGENET,
        architecture=_resnet,
    ),
    Layout(
        official_mark="stage_att.stage_att_bottleneck_0.conv_reduce.weight",
        mark="attention_branch.norm.unapplied.weight",
        prefixes=_HEADS
        | {
            "conv_1_3x3.": "feature_extractor.conv1.",
            "bn_1.": "feature_extractor.bn1.",
            "stage_1.stage_1_bottleneck_": "feature_extractor.layer1.",
            "stage_2.stage_2_bottleneck_": "feature_extractor.layer2.",
            "stage_3.stage_3_bottleneck_": "perception_branch.tail.layer3.",
            "stage_att.stage_att_bottleneck_": "attention_branch.stage.layer3.",
            "bn_att.": "attention_branch.norm.unapplied.",
            "classifier.": "perception_branch.tail.fc.",
        },
        inner={
            "conv_reduce": "conv1",
            "bn_reduce": "bn1",
            "conv_conv": "conv2",
            "bn": "bn2",
            "conv_expand": "conv3",
            "bn_expand": "bn3",
            "shortcut.shortcut_conv": "downsample.0",
            "shortcut.shortcut_bn": "downsample.1",
        },
        architecture=_cifar_resnext,
    ),
    Layout(
        official_mark="att_layer3.0.conv1.weight",
        mark="perception_branch.tail.layer3.0.conv1.weight",
        prefixes=_HEADS
        | {
            "att_layer3.": "attention_branch.stage.layer3.",
            "layer3.": "perception_branch.tail.layer3.",
        },
        architecture=_cifar_resnet,
    ),
    Layout(
        official_mark="att_dense3.0.conv1.weight",
        mark="perception_branch.tail.dense3.0.conv1.weight",
        prefixes=_HEADS
        | {
            "att_dense3.": "attention_branch.stage.",
            "dense3.": "perception_branch.tail.dense3.",
            "bn.": "perception_branch.tail.bn.",
        },
        architecture=_cifar_densenet,
    ),
    Layout(
        official_mark="att_block3.layer.0.conv1.weight",
        mark="perception_branch.tail.block3.0.conv1.weight",
        prefixes=_HEADS
        | {
            "block1.layer.": "feature_extractor.block1.",
            "block2.layer.": "feature_extractor.block2.",
            "block3.layer.": "perception_branch.tail.block3.",
            "att_block3.layer.": "attention_branch.stage.",
            "bn1.": "perception_branch.tail.bn1.",
        },
        inner={"convShortcut": "shortcut"},
        architecture=_cifar_wide_resnet,
    ),
)
