"""Cuts a backbone into the parts of an Attention Branch Network."""

from dataclasses import dataclass

import torch
from torch import fx, nn

from abn.modules.features import Features
from abn.retrofit.chain import Chain, FeatureMap, works_on_tokens
from abn.retrofit.dry_run import Example, Shape
from abn.retrofit.errors import CutError
from abn.retrofit.graphs import subgraph
from abn.retrofit.layouts import Tokens
from abn.retrofit.packing import example_of, keep_input, pack, unpack
from abn.retrofit.read_classifier import read_classifier
from abn.retrofit.splits import Split, Splits
from abn.retrofit.tokens import places_unknown
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
    head_receives: Example
    """What the head takes: (C, H, W) of the last feature map, or features with more than a map."""
    split: str
    """Name of the split."""
    features: Shape
    """(C, H, W) of the features."""
    received: Example
    """What stage and tail take: (C, H, W) of the features, or features with more than a map."""
    of_tokens: bool
    """Whether the backbone has tokens at the split."""
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
    default = None if works_on_tokens(chain) else chain.maps[chain.default_split]
    splits = Splits(
        Split(split.name, *split.shape, stride=round(shape[1] / split.shape[1]), default=split is default)
        for split in chain.maps[1:]
    )
    splits.image_size = shape[1], shape[2]
    classifier = read_classifier(_head(backbone, chain), example_of(chain.maps[chain.end]))
    splits.classifier = "" if classifier is None else classifier.summary()
    return splits


def cut(backbone: nn.Module, shape: Shape, split: str | None) -> Parts:
    """Cuts the backbone at the split of this name, or at the default that :mod:`abn.retrofit.chain` finds.

    Raises:
        CutError: If the backbone cannot be traced, does something that its trace has lost, has no feature
            map to cut at, has no split of this name, or returns anything but logits (B, K).
    """
    chain = checked_chain(backbone, shape, split)
    at = _position(chain, backbone, split)
    images, features, end = chain.maps[0], chain.maps[at], chain.maps[chain.end]
    (logits,) = chain.graph.output_node().all_input_nodes
    tail = _between(backbone, chain, features, logits, "Tail")
    received = example_of(features)
    if isinstance(received, Features):  # of which the attention mechanism makes no new tensors but the map
        keep_input(tail, received)
    return Parts(
        feature_extractor=_between(backbone, chain, images, features, "FeatureExtractor", whole=True),
        stage=_between(backbone, chain, features, end, "Stage") if at < chain.end else None,
        tail=tail,
        head=_head(backbone, chain),
        head_receives=example_of(end),
        split=features.name,
        features=features.shape,
        received=received,
        of_tokens=isinstance(features.layout, Tokens),
        dtype=features.node.meta["val"].dtype,
        num_classes=logits.meta["val"].shape[1],
    )


def _head(backbone: nn.Module, chain: Chain) -> fx.GraphModule:
    """Builds the part from the last feature map to the logits."""
    (logits,) = chain.graph.output_node().all_input_nodes
    return _between(backbone, chain, chain.maps[chain.end], logits, "Head")


def _between(
    backbone: nn.Module,
    chain: Chain,
    start: FeatureMap,
    end: FeatureMap | fx.Node,
    name: str,
    whole: bool = False,
) -> fx.GraphModule:
    """Builds the part from one feature map to another, or to the logits.

    The part takes features: a feature map (B, C, H, W), whatever its layout is in the backbone, or
    :class:`Features` if more is needed. It returns features, too, if ``whole``, else their map alone.
    """
    starts = [start.node, *start.beside.per_image, *start.beside.shared]
    ends = [end.node if isinstance(end, FeatureMap) else end]
    if isinstance(end, FeatureMap) and whole:
        ends += [*end.beside.per_image, *end.beside.shared]
    part = _module_of(backbone, subgraph(chain.graph, starts, ends), name)
    feature_map = unpack(part, start)
    if isinstance(end, FeatureMap):
        pack(part, end, feature_map, (start.shape[1], start.shape[2]), whole)
    part.graph.lint()
    part.recompile()
    return part


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
    if split is None and works_on_tokens(chain):  # still, though tokens count as feature maps
        raise CutError(f"{places_unknown(backbone)}. Or attend to what comes before, with split=. {valid}")
    if split is not None and split not in names[1:]:
        raise CutError(f"{type(backbone).__name__} cannot be cut at split={split!r}. {valid}")
    return chain.default_split if split is None else names.index(split)
