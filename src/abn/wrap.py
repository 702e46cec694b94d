"""Retrofitting: from a backbone to an Attention Branch Network."""

import copy
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from abn.attention import AttentionBranch, MapKind, check_counts, check_map, default_response_channels
from abn.backbone import (
    FETCHING,
    check_input_size,
    create_backbone,
    input_shape,
    replace_classifier,
)
from abn.cut import Parts, Splits, cut, keep_input, splits_of
from abn.dry_run import device_of, dry_run, overwrites_input
from abn.light import light_stage
from abn.multitask import (
    MultiTaskAttentionBranch,
    MultiTaskPerceptionBranch,
    ResponseAttentionBranch,
    TaskMapKind,
    check_task_map,
)
from abn.network import ABN
from abn.perception import Mechanism, PerceptionBranch, check_mechanism
from abn.preprocessing import preprocessing_of
from abn.stride import stride_one_copy

Stage = nn.Module | Literal["copy", "light", "none"]


def wrap_backbone(
    backbone: nn.Module | str,
    *,
    num_classes: int | None = None,
    tasks: int | None = None,
    split: str | None = None,
    stage: Stage = "copy",
    map: MapKind | TaskMapKind = "class_activation",
    response_channels: int | None = None,
    mechanism: Mechanism = "residual",
    input_size: int | tuple[int, int, int] | None = None,
    **backbone_arguments: object,
) -> ABN:
    """Turns an image classifier into an Attention Branch Network, by cutting the graph of its forward.

    The network works on a copy: the backbone that was handed in is left as it was. Weights are kept, and
    the attention branch's stage starts from those of the backbone's last stage; only the branch's heads,
    and the classifier if ``num_classes`` is given, start anew. Auxiliary heads are left out. The result
    has the backbone's device, dtype and mode (training or evaluation).

    Args:
        backbone: A classifier, images (B, C, H, W) to logits (B, K), or ``"timm/<model>"`` or
            ``"torchvision/<model>"`` to build one.
        num_classes: Replaces the backbone's classifier by one for K classes. Default: as it is.
        tasks: Makes a network of T tasks, each with a map of its own: for several labels, attributes or
            quantities of an image. It always replaces the classifier. Each task has one value, or, with
            ``num_classes``, K classes. See :mod:`abn.multitask`.
        split: Where the features are taken, one of the names that :func:`find_splits` lists, or any
            deeper submodule that the whole network goes through. Default: where the last stage begins.
        stage: What the attention branch runs before its heads: ``"copy"``, a copy of the backbone's part
            from the split to the last feature map, at stride 1 as in the paper (section 3.1); ``"light"``,
            a 1×1 convolution to an eighth of the channels, with which the whole network takes little longer
            than the backbone alone (docs/performance.md); ``"none"``; or a module of your own, features
            (B, C, H, W) to (B, C', h, w). A copy that cannot do with stride 1 keeps its stride: the map is
            then coarser than the features. A copy is trainable, even where the backbone is frozen.
        map: How the class responses become the map: ``"class_activation"``, ``"convolution"`` as in the
            official code, or ``"log_sum"``, see :class:`AttentionBranch`; with ``tasks``
            ``"class_activation"``, or ``"response"`` and ``"scaled_response"`` as in versions 1 and 2 of the
            official multi-task code, see :class:`ResponseAttentionBranch`.
        response_channels: Width of the class responses, see :class:`AttentionBranch`. By default, behind a
            light stage, not more than its channels: what makes it light for many classes. The price of fewer
            responses than classes is in docs/stages.md; K brings them back.
        mechanism: ``"residual"`` or ``"multiplicative"``, see :class:`PerceptionBranch`.
        input_size: Size of the images for which the backbone is cut: one number of pixels or (C, H, W).
            Default: read off the backbone, see the example. The network takes images of other sizes too
            where the backbone does.
        **backbone_arguments: Passed to the library that builds a backbone by name, such as
            ``pretrained=True`` or ``in_chans=1`` for timm, ``weights="DEFAULT"`` for torchvision.

    Raises:
        CutError: If the backbone cannot be traced or run, has no feature map to attend to, or cannot be
            cut at ``split``. Build such a network by hand, from three modules, with :class:`ABN`.
        ValueError: If another argument is not one of those listed.
        TypeError: If the backbone is neither a module nor a name, is compiled or distributed, cannot be
            copied, or if a module came with arguments.

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
    if not isinstance(stage, nn.Module) and stage not in ("copy", "light", "none"):
        raise ValueError(f"stage is {stage!r}, expected 'copy', 'light', 'none' or a module")
    if tasks is None:
        check_map(map)
    else:
        check_task_map(map, num_classes, response_channels)
    check_mechanism(mechanism)
    check_input_size(input_size)
    name = backbone if isinstance(backbone, str) else None
    backbone = _own(backbone, backbone_arguments)
    shape = input_shape(backbone, input_size)
    outputs = num_classes if tasks is None else tasks * (num_classes or 1)
    if outputs is not None:
        replace_classifier(backbone, outputs, shape)

    parts = cut(backbone, shape, split)
    if outputs not in (None, parts.num_classes):
        raise ValueError(
            f"asked for {outputs} logits, but with its classifier replaced {type(backbone).__name__} still "
            f"returns {parts.num_classes}: replace the classifier yourself before wrapping"
        )
    branch_stage = _stage(stage, parts, backbone)
    channels, dtype = parts.features[0], parts.dtype
    if branch_stage is not None:
        output = dry_run(branch_stage, parts.features)
        channels, dtype = output.shape[1], output.dtype
    if stage == "light" and tasks is None and response_channels is None:
        response_channels = min(channels, default_response_channels(parts.num_classes))
    if tasks is None:
        attention_branch: nn.Module = AttentionBranch(
            channels, parts.num_classes, map=cast(MapKind, map), response_channels=response_channels
        )
        perception_branch: nn.Module = PerceptionBranch(parts.tail, mechanism)
    else:
        attention_branch = _task_branch(map, channels, tasks, num_classes, response_channels)
        perception_branch = MultiTaskPerceptionBranch(parts.tail, tasks, mechanism, num_classes=num_classes)
    attention_branch.to(device_of(backbone), dtype)
    if branch_stage is not None:
        attention_branch.stage = branch_stage  # added now, so that its own dtype stays as it is
    model = ABN(parts.feature_extractor, attention_branch, perception_branch)
    kept = [m for part in (parts.feature_extractor, parts.tail, branch_stage) if part for m in part.modules()]
    for module in set(model.modules()).difference(kept):
        module.training = backbone.training
    if (preprocessing := preprocessing_of(backbone)) is not None and shape[0] == 3:
        model.preprocessing = preprocessing.at(shape[1:])
    if name is not None and not isinstance(stage, nn.Module):
        model.config = {
            "backbone": name,
            **_building(backbone, backbone_arguments),
            "num_classes": num_classes,
            "tasks": tasks,
            "split": parts.split,
            "stage": stage,
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

    Takes the arguments of :func:`wrap_backbone`, and leaves the backbone as it was like that one.

    Returns:
        One entry per place, from the images to the logits. Prints as a table.

    Raises:
        CutError: If the backbone cannot be traced or run, or has no feature map to attend to.

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
    """
    check_input_size(input_size)
    backbone = _own(backbone, backbone_arguments)
    return splits_of(backbone, input_shape(backbone, input_size))


def _own(backbone: nn.Module | str, arguments: dict[str, object]) -> nn.Module:
    """The backbone to work on: built by name, or a copy of the caller's."""
    if isinstance(backbone, str):
        return create_backbone(backbone, **arguments)
    if not isinstance(backbone, nn.Module):
        raise TypeError(f"backbone is a {type(backbone).__name__}, expected a module or a name")
    if arguments:
        raise TypeError(f"unexpected arguments {sorted(arguments)}: they serve to build a backbone by name")
    distributed = isinstance(backbone, (nn.DataParallel, nn.parallel.DistributedDataParallel))
    if distributed or hasattr(backbone, "_orig_mod"):
        inner = "module" if distributed else "_orig_mod"
        raise TypeError(
            f"backbone is a {type(backbone).__name__}, expected the network in it: hand over "
            f"backbone.{inner}, and distribute or compile what comes back"
        )
    if isinstance(backbone, torch.jit.ScriptModule):
        raise TypeError(
            "backbone is a ScriptModule, which has no Python to trace: hand over the module behind it"
        )
    if any(isinstance(parameter, UninitializedParameter) for parameter in backbone.parameters()):
        raise TypeError(f"{type(backbone).__name__} has lazy layers: run it once on images before wrapping")
    try:
        return copy.deepcopy(backbone)
    except Exception as error:  # the backbone is the user's own, and may fail in any way
        raise TypeError(
            f"{type(backbone).__name__} cannot be copied by copy.deepcopy: {error}\n"
            "If it uses the old weight_norm or spectral_norm, use those of torch.nn.utils.parametrizations"
        ) from error


def _building(backbone: nn.Module, arguments: dict[str, object]) -> dict[str, object]:
    """The arguments that build the backbone without its weights."""
    building = {key: value for key, value in arguments.items() if key not in FETCHING}
    if isinstance(getattr(backbone, "transform_input", None), bool):
        building["transform_input"] = backbone.transform_input  # torchvision sets it for some weights
    return building


def _task_branch(
    map: str, channels: int, tasks: int, num_classes: int | None, response_channels: int | None
) -> MultiTaskAttentionBranch | ResponseAttentionBranch:
    if map == "class_activation":
        return MultiTaskAttentionBranch(
            channels, tasks, num_classes=num_classes, response_channels=response_channels
        )
    return ResponseAttentionBranch(channels, tasks, scaled=map == "scaled_response")


def _stage(stage: Stage, parts: Parts, backbone: nn.Module) -> nn.Module | None:
    """The attention branch's stage. It must not change the features: the perception branch reads them too."""
    if isinstance(stage, nn.Module):
        expected = f"expected a module that takes features {('B', *parts.features)} to (B, C', h, w)"
        try:
            output = dry_run(stage, parts.features)
            overwrites = overwrites_input(stage, parts.features)
        except Exception as error:  # the stage is the user's own code, and may fail in any way
            raise ValueError(f"stage does not run, {expected}: {error}") from error
        if not isinstance(output, Tensor) or output.ndim != 4:
            shape = ("B", *output.shape[1:]) if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise ValueError(f"stage returns {shape}, {expected}")
        if overwrites:
            raise ValueError(
                "stage changes the features in place, expected it to leave them: clone them first"
            )
        return stage
    if stage == "light":
        return light_stage(parts.features[0]).to(device_of(backbone), parts.dtype).train(backbone.training)
    if stage == "none" or parts.stage is None:
        return None
    keep_input(parts.stage, parts.features)
    copied = stride_one_copy(parts.stage, parts.features) or copy.deepcopy(parts.stage)
    return copied.requires_grad_(True)
