"""Branches for several tasks: attention with one map per task, perception with one pass per map.

Fukui et al., CVPR 2019, sections 3.3 and 4.4. :func:`abn.wrap_backbone` with ``tasks=`` joins both branches.
"""

import math

import torch
from torch import Tensor, nn

from abn.modules.attention import AttentionBranch
from abn.modules.features import Features, feature_map_of, with_feature_map
from abn.modules.inputs import check_counts, check_features, match_features
from abn.modules.linear import is_plain, without_bias
from abn.modules.maps import MAPS, check_map
from abn.modules.mechanisms import attend, check_mechanism


class MultiTaskAttentionBranch(AttentionBranch):
    r"""An attention branch with one map per task, which shows where the evidence for the task is.

    A pixel's evidence is computed as in :class:`AttentionBranch` with the same ``map``, for T tasks instead
    of K classes. A score is the mean of the evidence over the pixels, plus a bias. The map of a task with a
    single value, such as whether an attribute is present, shows what raises this value. The map of a task
    with K classes shows the evidence for its classes, each weighted by the branch's own probability for it.

    Args:
        in_channels: As in :class:`AttentionBranch`.
        tasks: Number of tasks T.
        stage: As in :class:`AttentionBranch`.
        num_classes: Number of classes K of each task. Default: a single value per task, for a binary
            attribute or a regression.
        map: ``"class_activation"`` or ``"evidence"``, see :class:`AttentionBranch`.
        response_channels: As in :class:`AttentionBranch`, with T·K scores in place of K.

    Raises:
        ValueError: If a number is below one, or ``map`` is neither of the two kinds.

    Example:
        >>> branch = MultiTaskAttentionBranch(in_channels=256, tasks=40)
        >>> attention_logits, attention_map = branch(torch.randn(2, 256, 14, 14))
        >>> attention_logits.shape, attention_map.shape
        (torch.Size([2, 40]), torch.Size([2, 40, 14, 14]))
    """

    def __init__(
        self,
        in_channels: int,
        tasks: int,
        stage: nn.Module | None = None,
        *,
        num_classes: int | None = None,
        map: str = "class_activation",
        response_channels: int | None = None,
    ) -> None:
        check_counts(tasks=tasks, num_classes=num_classes)
        check_map(map, several_tasks=True)
        if MAPS[map].of_evidence is None:
            raise ValueError(f"map is {map!r}, which is that of a ResponseAttentionBranch: build one instead")
        outputs = tasks * (num_classes or 1)
        super().__init__(in_channels, outputs, stage, map=map, response_channels=response_channels)
        self.tasks = tasks
        self.num_classes = num_classes
        # With one response per score, the mean evidence starts as ten times the mean response, which is never
        # negative. The bias subtracts ten times the mean of a rectified normal variable, so that a score is
        # below 0 as often as above. With another number of responses, the weights add up to 0 already.
        bias = 0.0 if self.response_channels else -10 * (2 * math.pi) ** -0.5
        self.classifier.bias = nn.Parameter(torch.full((self.classifier.out_channels,), bias))

    def extra_repr(self) -> str:
        return f"tasks={self.tasks}, num_classes={self.num_classes}, map={self.map!r}"

    def forward(self, features: Tensor | Features) -> tuple[Tensor, Tensor]:
        """Computes the scores and the attention map of each task.

        Args:
            features: (B, C, H, W), or :class:`abn.modules.features.Features`.

        Returns:
            ``attention_logits`` (B, T), or (B, K, T) if tasks have classes, and ``attention_map``
            (B, T, h, w), in [0, 1], where (h, w) is the size of the stage's output.

        Raises:
            ValueError: If the features are not (B, C, H, W) or have a single pixel.
        """
        responses = self.responses(features)  # (B, R, h, w)
        logits = self.classifier(responses.mean(dim=(2, 3), keepdim=True)).flatten(1)  # (B, T) or (B, K·T)
        if self.num_classes is None:
            evidence = without_bias(self.classifier, responses)  # (B, T, h, w)
        else:
            logits = logits.view(-1, self.num_classes, self.tasks)  # (B, K, T)
            # Detached: the perception branch, which uses the map, must not train which classes it shows.
            shares = logits.detach().softmax(dim=1).to(responses.dtype)
            if is_plain(self.classifier):  # K times less work than a call at each pixel
                weight = self.classifier.weight.view(self.num_classes, self.tasks, -1)  # (K, T, R)
                weight = torch.einsum("bkt,ktr->btr", shares, weight)
                evidence = torch.einsum("btr,brhw->bthw", weight, responses)
            else:
                of_classes = without_bias(self.classifier, responses)
                of_classes = of_classes.reshape(*shares.shape, *responses.shape[2:])  # (B, K, T, h, w)
                evidence = torch.einsum("bkt,bkthw->bthw", shares, of_classes)
        of_evidence = MAPS[self.map].of_evidence
        assert of_evidence is not None
        return logits, of_evidence(evidence).to(responses.dtype)


class ResponseAttentionBranch(nn.Module):
    """The published multi-task attention branch. Its responses are the maps, and their means the scores.

    ::

        features ─► stage ─► 1×1 conv C→T (─► depth-wise 1×1 conv) = attention_map
                                    attention_map ─► average pool = attention_logits

    The branch of the authors' ``machine-perception-robotics-group/ABN_CelebA_PyTorch``: version 1, or with
    the second convolution version 2. It has no sigmoid: a map has both signs and no bounds.
    :func:`abn.visualize.overlay` shows one sign or both.

    Args:
        in_channels: As in :class:`AttentionBranch`.
        tasks: Number of tasks T.
        stage: As in :class:`AttentionBranch`.
        scaled: Whether to add the second convolution, which is a factor and an offset for each map.

    Raises:
        ValueError: If a number is below one.
    """

    def __init__(
        self, in_channels: int, tasks: int, stage: nn.Module | None = None, *, scaled: bool = False
    ) -> None:
        super().__init__()
        check_counts(in_channels=in_channels, tasks=tasks)
        self.stage = nn.Identity() if stage is None else stage
        self.task_conv = nn.Conv2d(in_channels, tasks, kernel_size=1, bias=False)
        if scaled:
            self.depth_conv = nn.Conv2d(tasks, tasks, kernel_size=1, groups=tasks)
        self.map = "scaled_response" if scaled else "response"

    def extra_repr(self) -> str:
        return f"map={self.map!r}"

    def forward(self, features: Tensor | Features) -> tuple[Tensor, Tensor]:
        """Computes the score and the attention map of each task.

        Args:
            features: (B, C, H, W), or :class:`abn.modules.features.Features`.

        Returns:
            ``attention_logits`` (B, T) and ``attention_map`` (B, T, h, w), of any sign and magnitude, where
            (h, w) is the size of the stage's output.

        Raises:
            ValueError: If the features are not (B, C, H, W) or have a single pixel.
        """
        check_features(feature_map_of(features))
        attention_map: Tensor = self.task_conv(feature_map_of(self.stage(features)))  # (B, T, h, w)
        if self.map == "scaled_response":
            attention_map = self.depth_conv(attention_map)
        return attention_map.mean(dim=(2, 3)), attention_map


class MultiTaskPerceptionBranch(nn.Module):
    r"""Classifies the features once per task, each time weighted with the map of that task.

    All tasks share the tail. Each pass returns K·T scores, K per task. The pass with the map of task t gives
    the K scores of task t, the others are dropped. The authors' code has one linear layer per task; here the
    layers are slices of one layer. The passes are folded into the batch, which takes the memory of T times as
    many images.

    Args:
        tail: The rest of the backbone. Takes features (B, C, H, W) and returns logits (B, K·T): first the
            logits of the first class for all tasks, then of the second class, and so on.
        tasks: Number of tasks T.
        mechanism: See :class:`PerceptionBranch`.
        num_classes: Number of classes K of each task. Default: a single value per task.
        chunk: Number of tasks that run at once, if memory does not suffice for all. The attribute may be set
            at any time and is not saved. In training mode the tail's batch norms take the statistics of each
            chunk. In the authors' code each task runs alone, as with ``chunk=1``. Default: all run at once.

    Raises:
        ValueError: If a number is below one, or ``mechanism`` is unknown.

    Example:
        >>> tail = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 40))
        >>> branch = MultiTaskPerceptionBranch(tail, tasks=40)
        >>> branch(torch.randn(2, 256, 14, 14), torch.rand(2, 40, 14, 14)).shape
        torch.Size([2, 40])
    """

    def __init__(
        self,
        tail: nn.Module,
        tasks: int,
        mechanism: str = "residual",
        *,
        num_classes: int | None = None,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        check_mechanism(mechanism)
        check_counts(tasks=tasks, num_classes=num_classes, chunk=chunk)
        self.tail = tail
        self.tasks = tasks
        self.num_classes = num_classes
        self.mechanism = mechanism
        self.chunk = chunk

    def extra_repr(self) -> str:
        return f"tasks={self.tasks}, mechanism={self.mechanism!r}, chunk={self.chunk}"

    def forward(self, features: Tensor | Features, attention_map: Tensor) -> Tensor:
        """Classifies the features attended by each map.

        Args:
            features: (B, C, H, W), or :class:`abn.modules.features.Features`.
            attention_map: (B, T, h, w), of any resolution. B = 1 gives all images one map, T = 1 all tasks.

        Returns:
            ``perception_logits`` (B, T), or (B, K, T) if tasks have classes, as cross-entropy takes them.

        Raises:
            ValueError: If the map has another shape, the tail does not return K·T scores, or ``chunk`` was
                set to a number below one.
        """
        check_counts(chunk=self.chunk)
        maps = match_features(attention_map, feature_map_of(features), self.tasks)
        maps = maps.expand(-1, self.tasks, -1, -1)
        maps = maps.contiguous()  # maps in another memory layout would change the layout of the features
        starts = range(0, self.tasks, self.chunk or self.tasks)
        logits = torch.cat([self._logits(features, maps, start) for start in starts], dim=2)  # (B, K, T)
        return logits.squeeze(1) if self.num_classes is None else logits

    def _logits(self, features: Tensor | Features, maps: Tensor, start: int) -> Tensor:
        """Computes scores (B, K, n) for the n tasks of a chunk, from the maps (B, T, H, W) of all tasks."""
        chosen = slice(start, min(start + (self.chunk or self.tasks), self.tasks))
        feature_map = feature_map_of(features)[:, None]
        attended = attend(feature_map, maps[:, chosen, None], self.mechanism)  # (B, n, C, H, W)
        scores: Tensor = self.tail(with_feature_map(features, attended.flatten(0, 1)))  # (B·n, K·T)
        count, classes = attended.shape[1], self.num_classes or 1
        if scores.ndim != 2 or scores.shape[1] != classes * self.tasks:
            raise ValueError(
                f"the tail returns {('B', *scores.shape[1:])}, expected (B, {classes * self.tasks}): "
                f"{classes} for each of {self.tasks} tasks"
            )
        scores = scores.reshape(-1, count, classes, self.tasks)  # (B, n, K, T)
        return scores[..., chosen].diagonal(dim1=1, dim2=3)


def check_task_map(map: str, num_classes: int | None, response_channels: int | None) -> None:
    """Raises a ValueError if ``map`` is not for several tasks, or does not allow the other arguments."""
    check_map(map, several_tasks=True)
    if MAPS[map].of_evidence is not None:
        return
    if num_classes not in (None, 1, 2):
        raise ValueError(
            f"num_classes is {num_classes}, but map={map!r} is for tasks of one value, or of no and yes: "
            "expected none or 2"
        )
    if response_channels is not None:
        raise ValueError(
            f"response_channels is {response_channels}, but map={map!r} has one per task: leave it out"
        )
