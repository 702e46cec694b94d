"""Builds the attention branch: with the backbone's classifier where possible, otherwise with new heads."""

from torch import nn

from abn.modules.attention import AttentionBranch, default_response_channels
from abn.modules.features import Features
from abn.modules.maps import MAPS
from abn.modules.multitask import MultiTaskAttentionBranch, ResponseAttentionBranch
from abn.modules.pooled_classifier import PooledClassifier
from abn.retrofit.cut import Parts
from abn.retrofit.dry_run import dry_run
from abn.retrofit.read_classifier import read_classifier
from abn.retrofit.stages import KEEPING_WHAT_IT_LEARNED


def classifier_for(
    parts: Parts, stage: str | nn.Module, map: str, tasks: int | None, response_channels: int | None
) -> tuple[PooledClassifier | None, str | None]:
    """Returns the backbone's classifier for the attention branch, and None.

    If the attention branch cannot use this classifier, returns None and the reason.
    """
    if tasks is not None:
        return None, "with tasks= the heads are new"
    # If the split is the last feature map, there is no stage to copy: the classifier reads the features.
    reads_last_map = parts.stage is None and stage in ("copy", "none")
    if stage not in KEEPING_WHAT_IT_LEARNED and not reads_last_map:
        return None, "the backbone's classifier reads the output of stage='dense', and of no other"
    if MAPS[map].of_evidence is None:
        return None, f"map={map!r} needs layers that no backbone has"
    if response_channels is not None:
        return None, f"response_channels={response_channels} is the width of new layers"
    if isinstance(parts.head_receives, Features):
        return None, (
            "the backbone's classifier cannot be read pixel by pixel: it needs more than the last feature "
            "map, such as a class token"
        )
    classifier = read_classifier(parts.head, parts.head_receives)
    if classifier is None:
        return None, "the backbone's classifier cannot be read pixel by pixel, see find_splits()"
    return classifier, None


def new_branch(
    parts: Parts,
    stage: nn.Module | None,
    map: str,
    tasks: int | None,
    num_classes: int | None,
    response_channels: int | None,
    light: bool,
) -> nn.Module:
    """Builds an attention branch without its stage, with new heads in the dtype of the stage's output."""
    channels, dtype = parts.features[0], parts.dtype
    if stage is not None:
        output = dry_run(stage, parts.received)
        channels, dtype = output.shape[1], output.dtype
    branch: nn.Module
    if tasks is None:
        if light and response_channels is None:
            response_channels = min(channels, default_response_channels(parts.num_classes))
        branch = AttentionBranch(channels, parts.num_classes, map=map, response_channels=response_channels)
    elif MAPS[map].of_evidence is not None:
        branch = MultiTaskAttentionBranch(
            channels, tasks, num_classes=num_classes, map=map, response_channels=response_channels
        )
    else:
        branch = ResponseAttentionBranch(channels, tasks, scaled=map == "scaled_response")
    return branch.to(dtype=dtype)
