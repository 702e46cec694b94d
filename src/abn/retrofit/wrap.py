"""Turns a backbone into an Attention Branch Network, and lists where it can be cut."""

import warnings
from pathlib import Path

from torch import nn

from abn.modules.attention import PretrainedAttentionBranch
from abn.modules.inputs import check_counts
from abn.modules.maps import MAPS, check_map
from abn.modules.mechanisms import check_mechanism
from abn.modules.multitask import MultiTaskPerceptionBranch, check_task_map
from abn.modules.perception import PerceptionBranch
from abn.network import ABN
from abn.retrofit.backbone_weights import check_backbone_weights, known_data, load_backbone_weights
from abn.retrofit.backbones import (
    asks_for_weights,
    build_or_copy,
    building_arguments,
    check_input_size,
    input_shape,
)
from abn.retrofit.branches import classifier_for, new_branch
from abn.retrofit.cut import cut, splits_of
from abn.retrofit.dry_run import device_of
from abn.retrofit.last_layer import Ending, ending_of, is_encoder, replace_classifier
from abn.retrofit.splits import Splits
from abn.retrofit.stages import check_stage, make_stage

PRETRAINED_DEFAULTS = {"stage": "dense", "map": "evidence", "mechanism": "dimming"}
"""Defaults of :func:`wrap_backbone` for a pretrained backbone."""

NEW_DEFAULTS = {"stage": "copy", "map": "class_activation", "mechanism": "residual"}
"""Defaults of :func:`wrap_backbone` for a backbone that is trained from nothing."""


def wrap_backbone(
    backbone: nn.Module | str,
    *,
    num_classes: int | None = None,
    tasks: int | None = None,
    split: str | None = None,
    stage: str | nn.Module | None = None,
    start: str | None = None,
    map: str | None = None,
    response_channels: int | None = None,
    mechanism: str | None = None,
    input_size: int | tuple[int, int, int] | None = None,
    backbone_weights: str | Path | None = None,
    **backbone_arguments: object,
) -> ABN:
    """Turns an image classifier into an Attention Branch Network, by cutting the graph of its forward.

    A pretrained backbone explains itself from the first call. The attention branch starts from the backbone's
    last stage and classifier, and its map shows for each image the evidence for the classes that the branch
    sees. Training improves the scores and the map. docs/photos.md has the figures before any training. A map
    means nothing before training if the branch's heads are new. They are new with a ``stage`` other than
    ``"dense"``, with a ``map`` of the official code, if the classifier cannot be read pixel by pixel
    (:func:`find_splits` tells), or if ``num_classes`` or ``tasks`` replaces the classifier.

    A backbone counts as pretrained if it is handed over as a module or loads weights here. If ``start`` is
    given, ``start`` decides. The defaults of ``stage``, ``map`` and ``mechanism`` depend on this.

    The network works on a copy of the backbone. The backbone itself is not changed. Auxiliary heads are left
    out. The result has the backbone's device, dtype and mode (training or evaluation).

    Args:
        backbone: A classifier that takes images (B, C, H, W) to logits (B, K). Or the name of a classifier to
            build, ``"timm/<model>"`` or ``"torchvision/<model>"``.
        num_classes: Replaces the backbone's classifier by one for K classes. A transformer that timm
            built with ``num_classes=0``, such as DINO, gets one that reads the mean of its patch tokens, not
            its class token. Any other encoder with the attribute ``num_classes`` of 0 gets one that reads the
            mean of what it returns. Default: keeps the classifier.
        tasks: Makes a network of T tasks, each with a map of its own: for several labels, attributes or
            quantities of an image. This always replaces the classifier. Each task has one value, or, with
            ``num_classes``, K classes. See :mod:`abn.modules.multitask`.
        split: Where the features are taken: one of the names that :func:`find_splits` lists, or any deeper
            submodule that every path through the network goes through. Default: where the last stage begins.
        stage: What the attention branch runs before its heads. ``"dense"``: a copy of the backbone's part
            from the split to the last feature map, run at every pixel of the features, see
            :func:`abn.retrofit.dense.dense_copy`. ``"copy"``: a copy of this part at stride 1, as in the
            paper (section 3.1) and the official code. Until it is trained, its output differs from the
            backbone's part. ``"light"``: a 1×1 convolution to an eighth of the channels. With it, the
            whole network takes little longer than the backbone alone (docs/performance.md). ``"none"``: no
            stage. Or a module of your own, which takes features (B, C, H, W) to (B, C', h, w). A copy that
            cannot keep the resolution keeps its stride: the map is then coarser than the features. A copy is
            trainable, even if the backbone is frozen. Default: ``"dense"`` for a pretrained backbone, else
            ``"copy"``. For a backbone of tokens, such as a vision transformer, ``"light"`` if the branch's
            heads are new (docs/transformers.md).
        start: ``"pretrained"``: the branch's heads are the backbone's classifier, see
            :class:`PretrainedAttentionBranch`. ``"new"``: the heads are new, see :class:`AttentionBranch`.
            They learn faster if nothing is pretrained. Default: ``"new"`` if the backbone is built here
            without weights, or ``map`` is one of the official code; else ``"pretrained"`` if stage, tasks and
            classifier allow it.
        map: How the map is made, see :class:`AttentionBranch`: ``"evidence"``, ``"class_activation"``,
            ``"convolution"`` as in the official code, or ``"log_sum"``. With ``tasks``: ``"evidence"``,
            ``"class_activation"``, or ``"response"`` and ``"scaled_response"`` as in versions 1 and 2 of the
            official multi-task code, see :class:`ResponseAttentionBranch`. Default: ``"evidence"`` for a
            pretrained backbone, else ``"class_activation"``.
        response_channels: Number of class responses of a new branch, see :class:`AttentionBranch`. Behind a
            light stage, the default is at most the stage's number of channels, so that the branch stays light
            for many classes. docs/stages.md has the price of fewer responses than classes. With K there is
            one response for each class.
        mechanism: ``"dimming"``, ``"residual"`` or ``"multiplicative"``, see :class:`PerceptionBranch`.
            Default: ``"dimming"`` for a pretrained backbone, else ``"residual"``.
        input_size: Size of the images for which the backbone is cut: one number of pixels or (C, H, W).
            Default: read off the backbone, see the example. If the backbone takes images of other sizes, so
            does the network.
        backbone_weights: A file with the weights of the backbone, ``.pth`` or ``.safetensors``: a state dict
            saved by torchvision, by timm or by a training of your own.
        **backbone_arguments: Passed to the library that builds a backbone by name, such as
            ``pretrained=True`` or ``in_chans=1`` for timm, ``weights="DEFAULT"`` for torchvision.

    Raises:
        CheckpointError: If the file holds no weights, or weights of another network. It is a ``ValueError``.
        CutError: If the backbone cannot be traced or run, has neither a feature map nor tokens whose places
            are known, or cannot be cut at ``split``. Build the network by hand instead, from three modules,
            with :class:`ABN`.
        FileNotFoundError: If the file ``backbone_weights`` does not exist.
        ValueError: If another argument does not have one of the values listed above.
        TypeError: If the backbone is neither a module nor a name, is compiled or distributed, cannot be
            copied, or is a module that came with arguments; or if ``backbone_weights`` is no path.

    Warns:
        UserWarning: If a backbone that is a module returns probabilities, or ends without a linear layer.
            Also if the heads are new although the backbone seems to be pretrained: it was built with weights,
            or is a module and ``map`` is none of the official code, and it keeps its classifier. With
            ``start="new"``, new heads cause no warning.

    Example:
        >>> import timm, torch
        >>> model = wrap_backbone(timm.create_model("test_resnet"), num_classes=10)
        >>> attention_logits, perception_logits, attention_map = model(torch.randn(2, 3, 160, 160))
        >>> perception_logits.shape, attention_map.shape
        (torch.Size([2, 10]), torch.Size([2, 1, 10, 10]))
    """
    check_counts(num_classes=num_classes, tasks=tasks, response_channels=response_channels)
    if split is not None and not isinstance(split, str):
        raise ValueError(f"split is {split!r}, expected a name, such as find_splits lists")
    if stage is not None:
        check_stage(stage)
    if start not in (None, "pretrained", "new"):
        raise ValueError(f"start is {start!r}, expected 'pretrained' or 'new'")
    if map is not None and tasks is None:
        check_map(map, several_tasks=False)
    elif map is not None:
        check_task_map(map, num_classes, response_channels)
    if mechanism is not None:
        check_mechanism(mechanism)
    check_input_size(input_size)
    if backbone_weights is not None:
        check_backbone_weights(backbone_weights, backbone_arguments)
    name = backbone if isinstance(backbone, str) else None
    loads_weights = backbone_weights is not None or asks_for_weights(backbone_arguments)
    needs_new_heads = map is not None and MAPS[map].of_evidence is None
    trained = start == "pretrained" or (start is None and (name is None or loads_weights))
    if needs_new_heads and start is None:
        if loads_weights and num_classes is None and tasks is None:
            _warn_of_new_heads(f"map={map!r} needs layers that no backbone has")
        trained = False
    defaults = PRETRAINED_DEFAULTS if trained else NEW_DEFAULTS
    map = map or defaults["map"]
    mechanism = mechanism or defaults["mechanism"]
    backbone = build_or_copy(backbone, backbone_arguments)
    shape = input_shape(backbone, input_size)
    classes_of_file = None
    if backbone_weights is not None:
        classes_of_file = load_backbone_weights(backbone, Path(backbone_weights), shape)
    outputs = num_classes if tasks is None else tasks * (num_classes or 1)
    classifying = backbone if outputs is None else replace_classifier(backbone, outputs, shape)

    parts = cut(classifying, shape, split)
    encoder = outputs is None and is_encoder(backbone)
    ending = ending_of(classifying, shape) if name is None or encoder else None
    if encoder and (name is not None or (ending is not None and ending.layer is None)):
        raise ValueError(
            f"{type(backbone).__name__} was built with num_classes=0, so it has no classifier: give "
            "num_classes=, and it gets a new one"
        )
    if outputs not in (None, parts.num_classes):
        raise ValueError(
            f"asked for {outputs} logits, but with its classifier replaced {type(backbone).__name__} still "
            f"returns {parts.num_classes}: replace the classifier yourself before wrapping"
        )
    if ending is not None:
        _warn_of_ending(classifying, ending, parts.num_classes)
    classifier = None
    if trained:
        of_stage = stage or defaults["stage"]
        classifier, obstacle = classifier_for(parts, of_stage, map, tasks, response_channels)
        if obstacle is not None and start == "pretrained":
            raise ValueError(f"start is 'pretrained', expected 'new' or none: {obstacle}")
        if obstacle is not None and outputs is None:
            _warn_of_new_heads(obstacle)
    if stage is None:
        # A copy of the last blocks costs more, and was no better (docs/transformers.md).
        stage = "light" if parts.of_tokens and classifier is None else defaults["stage"]
    branch_stage = make_stage(stage, parts)
    attention_branch: nn.Module
    if classifier is not None:
        if outputs is not None:
            classifier.centre()
        attention_branch = PretrainedAttentionBranch(classifier, map=map).to(dtype=parts.dtype)
    else:
        attention_branch = new_branch(
            parts, branch_stage, map, tasks, num_classes, response_channels, light=stage == "light"
        )
    attention_branch.to(device_of(backbone))
    if branch_stage is not None:
        attention_branch.stage = branch_stage  # added last, so that the stage keeps its own dtype
    perception_branch: nn.Module = PerceptionBranch(parts.tail, mechanism)
    if tasks is not None:
        perception_branch = MultiTaskPerceptionBranch(parts.tail, tasks, mechanism, num_classes=num_classes)
    model = ABN(parts.feature_extractor, attention_branch, perception_branch)
    kept = [m for part in (parts.feature_extractor, parts.tail, branch_stage) if part for m in part.modules()]
    for module in set(model.modules()).difference(kept):
        module.training = backbone.training
    model.in_channels = shape[0]
    model.preprocessing, classes = known_data(backbone, name, backbone_arguments, backbone_weights, shape)
    if classes is not None and outputs is None and len(classes) == parts.num_classes:
        model.classes = classes
    model.stage = stage if isinstance(stage, str) else None
    if name is not None and model.stage is not None:
        model.built_with = {
            "backbone": name,
            **building_arguments(backbone, backbone_arguments),
            "num_classes": num_classes if outputs is not None else classes_of_file,
            "tasks": tasks,
            "split": parts.split,
            "stage": stage,
            "start": "new" if classifier is None else "pretrained",
            "map": map,
            "response_channels": response_channels,
            "mechanism": mechanism,
            "input_size": input_size,
        }
    return model


def find_splits(
    backbone: nn.Module | str,
    *,
    input_size: int | tuple[int, int, int] | None = None,
    **backbone_arguments: object,
) -> Splits:
    """Lists where :func:`wrap_backbone` would cut a backbone, and where else it could.

    The arguments are described in :func:`wrap_backbone`. The backbone is not changed.

    Returns:
        One entry for each place, from the images to the logits. Prints as a table. Height and width are the
        size of the features for images of ``input_size``. The attention map is as fine as the features, or
        coarser if the stage cannot be run at every pixel and keeps its stride. An earlier split makes a finer
        map. docs/photos.md weighs the finer map against its cost.

    Raises:
        CutError: If the backbone cannot be traced or run, or has neither a feature map nor tokens whose
            places are known.

    Example:
        >>> print(find_splits("torchvision/resnet18"))
        split    channels  stride  height × width
        conv1          64       2     112 × 112
        bn1            64       2     112 × 112
        relu           64       2     112 × 112
        maxpool        64       4      56 × 56
        layer1         64       4      56 × 56
        layer2        128       8      28 × 28
        layer3        256      16      14 × 14  ← default
        layer4        512      32       7 × 7
        for images of 224 × 224; maps are as fine, or coarser where a stage keeps its stride
        attention branch starts from the classifier: Linear(512, 1000)
    """
    check_input_size(input_size)
    backbone = build_or_copy(backbone, backbone_arguments)
    return splits_of(backbone, input_shape(backbone, input_size))


def _warn_of_ending(backbone: nn.Module, ending: Ending, outputs: int) -> None:
    name = type(backbone).__name__
    faults = {
        f"{name} returns probabilities, but logits are expected: take its softmax or sigmoid away, or losses "
        "and shares will be wrong": ending.probabilities,
        f"{name} ends without a linear layer: its {outputs} outputs are taken for classes. If its classifier "
        "was taken away, give it a new one before wrapping": ending.layer is None,
    }
    for fault, found in faults.items():
        if found:
            warnings.warn(fault, stacklevel=3)


def _warn_of_new_heads(reason: str) -> None:
    warnings.warn(
        "the attention branch starts from random weights, so that its map means nothing before training: "
        f"{reason}. Give start='new' if that is meant",
        stacklevel=3,
    )
