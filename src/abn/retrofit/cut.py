"""Cuts a backbone into the parts of an Attention Branch Network."""

from dataclasses import dataclass

import torch
from torch import fx, nn

from abn.retrofit.dry_run import Shape, overwrites_input
from abn.retrofit.errors import CutError
from abn.retrofit.graphs import subgraph
from abn.retrofit.read_classifier import read_classifier
from abn.retrofit.splits import Chain, FeatureMap, Split, Splits
from abn.retrofit.tokens import about_tokens, tokens_of
from abn.retrofit.tracing import TRAINING_FLAG, TrainingFlag
from abn.retrofit.verify import checked_chain


@dataclass(frozen=True)
class Parts:
    """The parts of a backbone. They run the backbone's own submodules, not copies."""

    feature_extractor: fx.GraphModule
    """Takes the images to the features: the feature map at the split."""
    stage: fx.GraphModule | None
    """Takes the features to the last feature map. None if the features are the last feature map."""
    tail: fx.GraphModule
    """Takes the features to the logits."""
    head: fx.GraphModule
    """Takes the last feature map to the logits."""
    end: Shape
    """(C, H, W) of the last feature map."""
    split: str
    """Name of the split."""
    features: Shape
    """(C, H, W) of the features."""
    dtype: torch.dtype
    """Dtype of the features."""
    num_classes: int


def splits_of(backbone: nn.Module, shape: Shape) -> Splits:
    """Lists where the backbone can be cut, for images of this shape (C, H, W).

    Raises:
        CutError: If the backbone cannot be traced, does something that its trace has lost, has no feature
            map to cut at, or returns anything but logits (B, K).
    """
    chain = checked_chain(backbone, shape)
    default = None if tokens_of(chain) else chain.default_split
    splits = Splits(
        Split(split.name, *split.shape, stride=round(shape[1] / split.shape[1]), default=i == default)
        for i, split in enumerate(chain.maps)
        if i > 0
    )
    splits.image_size = shape[1], shape[2]
    classifier = read_classifier(_head(backbone, chain), chain.maps[chain.end].shape)
    splits.classifier = "" if classifier is None else classifier.summary()
    return splits


def cut(backbone: nn.Module, shape: Shape, split: str | None) -> Parts:
    """Cuts the backbone at the split of this name, or at the default that :mod:`abn.retrofit.splits` chooses.

    Raises:
        CutError: If the backbone cannot be traced, does something that its trace has lost, has no feature
            map to cut at, has no split of this name, or returns anything but logits (B, K).
    """
    chain = checked_chain(backbone, shape, split)
    at = _position(chain, backbone, split)
    images, features, end = chain.maps[0], chain.maps[at], chain.maps[chain.end]
    (logits,) = chain.graph.output_node().all_input_nodes
    return Parts(
        feature_extractor=_between(backbone, chain, images, features, "FeatureExtractor"),
        stage=_between(backbone, chain, features, end, "Stage") if at < chain.end else None,
        tail=_between(backbone, chain, features, logits, "Tail"),
        head=_head(backbone, chain),
        end=end.shape,
        split=features.name,
        features=features.shape,
        dtype=features.node.meta["val"].dtype,
        num_classes=logits.meta["val"].shape[1],
    )


def _head(backbone: nn.Module, chain: Chain) -> fx.GraphModule:
    """Builds the part from the last feature map to the logits."""
    (logits,) = chain.graph.output_node().all_input_nodes
    return _between(backbone, chain, chain.maps[chain.end], logits, "Head")


def _between(
    backbone: nn.Module, chain: Chain, start: FeatureMap, end: FeatureMap | fx.Node, name: str
) -> fx.GraphModule:
    """Builds the part from one feature map to another, or to the logits.

    The part takes and returns feature maps as (B, C, H, W), also where the backbone has (B, H, W, C).
    """
    node = end.node if isinstance(end, FeatureMap) else end
    graph = subgraph(chain.graph, start.node, node)
    if start.channels_last:
        (received,) = graph.find_nodes(op="placeholder")
        with graph.inserting_after(received):
            permuted = graph.call_method("permute", (received, 0, 2, 3, 1))
        received.replace_all_uses_with(permuted, delete_user_cb=lambda user: user is not permuted)
    if isinstance(end, FeatureMap) and end.channels_last:
        output = graph.output_node()
        (returned,) = output.all_input_nodes
        with graph.inserting_before(output):
            output.args = (graph.call_method("permute", (returned, 0, 3, 1, 2)),)
    return _module_of(backbone, graph, name)


def _module_of(backbone: nn.Module, graph: fx.Graph, name: str) -> fx.GraphModule:
    """Builds a module that runs the graph with the backbone's submodules, under their own names."""
    try:
        part = fx.GraphModule(backbone, graph, class_name=name)
    except SyntaxError as error:
        raise CutError(
            f"{type(backbone).__name__} has a submodule whose name cannot stand in Python, such as a "
            f"keyword: {error}"
        ) from error
    if hasattr(part, TRAINING_FLAG):  # if parts shared it, freezing one would switch dropout in another
        setattr(part, TRAINING_FLAG, TrainingFlag().train(backbone.training))
    for module in part.modules():
        if type(module) is nn.Module:  # in the place of a container whose forward is now in the graph
            module.training = backbone.training
    return part


def _position(chain: Chain, backbone: nn.Module, split: str | None) -> int:
    """Returns the index of the feature map to cut at. Raises a CutError if there is none."""
    names = [feature_map.name for feature_map in chain.maps]
    valid = "Valid splits:" + "".join(f"\n    {name}" for name in names[1:])
    if split is None and (tokens := tokens_of(chain)) is not None:
        raise CutError(
            f"{about_tokens(backbone, tokens)}, or attend to a feature map before them, with split=. {valid}"
        )
    if split is not None and split not in names[1:]:
        raise CutError(f"{type(backbone).__name__} cannot be cut at split={split!r}. {valid}")
    return chain.default_split if split is None else names.index(split)


def keep_input(part: fx.GraphModule, features: Shape) -> None:
    """Makes a part copy its input first, if the part would overwrite it, as an activation in place does.

    Raises:
        CutError: If the part does not run on its own.
    """
    try:
        overwrites = overwrites_input(part, features)
    except Exception as error:  # the part runs the user's own code, and may fail in any way
        raise CutError(
            f"what follows the split does not run on its own, so it cannot serve as a stage: {error}\n"
            "Does it read what the part before it has stored? Give stage='none', a stage of your own, or "
            "another split="
        ) from error
    if overwrites:
        (received,) = part.graph.find_nodes(op="placeholder")
        with part.graph.inserting_after(received):
            clone = part.graph.call_method("clone", (received,))
        received.replace_all_uses_with(clone, delete_user_cb=lambda user: user is not clone)
        part.recompile()
