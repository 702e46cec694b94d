"""The training losses of an Attention Branch Network: on its scores, and on its map."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from abn.modules.inputs import check_dtype, check_range, in_range, resize_maps, with_channel
from abn.network import ABNOutput

Criterion = Callable[[Tensor, Any], Tensor]
"""Logits and target to a scalar."""


class ABNLoss(nn.Module):
    r"""A criterion on the scores of both branches, added.

    .. math:: L = w_{att} \cdot L_{att} + w_{per} \cdot L_{per}

    The paper and the official code add the two cross-entropies with equal weight (Fukui et al.,
    CVPR 2019, section 3.3). Where there are tasks, a criterion that takes the mean over them, such as
    ``nn.BCEWithLogitsLoss()``, gives the published loss: that of the attention branch, and the mean over the
    tasks of those of the perception branch.

    Args:
        criterion: ``(logits, target)`` to a scalar. Default: cross-entropy, which is for classes: tasks of
            one value, (B, T), need one of their own.
        attention_criterion: For the attention branch, where it differs. Default: ``criterion``.
        attention_weight: Weight of the attention branch's loss.
        perception_weight: Weight of the perception branch's loss.

    Example:
        >>> import torch
        >>> output = ABNOutput(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 1, 7, 7))
        >>> ABNLoss()(output, torch.tensor([0]))  # twice log 2
        tensor(1.3863)
    """

    def __init__(
        self,
        criterion: Criterion | None = None,
        *,
        attention_criterion: Criterion | None = None,
        attention_weight: float = 1.0,
        perception_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self._for_classes = criterion is None
        self.criterion = nn.CrossEntropyLoss() if criterion is None else criterion
        self.attention_criterion = self.criterion if attention_criterion is None else attention_criterion
        self.attention_weight = attention_weight
        self.perception_weight = perception_weight

    def extra_repr(self) -> str:
        return f"attention_weight={self.attention_weight}, perception_weight={self.perception_weight}"

    def forward(self, output: ABNOutput, target: Any) -> Tensor:
        """Computes the loss.

        Args:
            output: What the model returned.
            target: Whatever the criteria take: for cross-entropy class indices (B,) or probabilities
                (B, K), or, of T tasks with K classes each, indices (B, T); a dict of several targets for a
                criterion of your own.

        Returns:
            The weighted sum, a scalar.

        Raises:
            TypeError: If the output is not what an ABN returns.
            ValueError: If the criterion is the default and there is a single value, or one per task.
        """
        if not hasattr(output, "perception_logits"):
            raise TypeError(
                f"output is a {type(output).__name__}, expected what an ABN returns; of a tuple "
                "ABNOutput(*output) makes it"
            )
        logits = output.perception_logits
        several = output.attention_map.shape[1] > 1
        if self._for_classes and logits.ndim == 2 and (several or logits.shape[1] == 1):
            raise ValueError(
                f"scores {tuple(logits.shape)} are single values, but the default criterion, cross-entropy, "
                "is for classes: give another, such as ABNLoss(nn.BCEWithLogitsLoss()), whose targets have "
                "the same shape and are floating point"
            )
        attention_loss = self.attention_criterion(output.attention_logits, target)
        perception_loss = self.criterion(output.perception_logits, target)
        return self.attention_weight * attention_loss + self.perception_weight * perception_loss


Guidance = Literal["match", "suppress_outside", "energy"]


class AttentionMapLoss(nn.Module):
    r"""Draws attention maps towards maps that people gave: boxes, masks, or maps edited by hand.

    With M the network's map and M' the given one, per image and over its pixels:

    - ``"match"``: :math:`\lVert M' - M \rVert_2`, the loss with which Mitsuhara et al., "Embedding Human
      Knowledge into Deep Neural Network via Attention Map", VISIGRAPP 2021, fine-tune on edited maps.
    - ``"suppress_outside"``: :math:`\lVert M - M \cdot M' \rVert_2`: nothing is asked within the given
      region, which may then be a rough box (Petryk et al., "GALS", CVPR 2022).
    - ``"energy"``: :math:`1 - \sum M M' / \sum M`, the share of the map outside the region, with which Rao
      et al., "Studying How to Efficiently and Effectively Guide Models with Explanations", ICCV 2023, guide
      networks by boxes. Of a map with both signs, its positive part. Blind to the map's scale, it suits maps
      whose maximum is always 1.

    It is added to :class:`ABNLoss` with a weight of one's own, γ. docs/explanations.md compares the three.

    Args:
        guidance: ``"match"``, ``"suppress_outside"`` or ``"energy"``.

    Raises:
        ValueError: If the guidance is none of these.

    Example:
        >>> map_loss = AttentionMapLoss("suppress_outside")
        >>> attention_map, boxes = torch.rand(2, 1, 14, 14), torch.zeros(2, 224, 224)
        >>> boxes[:, 64:160, 32:128] = 1  # or abn.metrics.box_masks
        >>> loss = map_loss(attention_map, boxes, given=torch.tensor([True, False]))
    """

    def __init__(self, guidance: Guidance = "match") -> None:
        super().__init__()
        if guidance not in get_args(Guidance):
            raise ValueError(f"guidance is {guidance!r}, expected one of {get_args(Guidance)}")
        self.guidance = guidance

    def extra_repr(self) -> str:
        return f"guidance={self.guidance!r}"

    def forward(self, attention_map: Tensor, target: Tensor, given: Tensor | None = None) -> Tensor:
        """Computes the loss.

        Args:
            attention_map: What the model returned, (B, 1, h, w). Of T maps, hand over ``flatten(0, 1)``, as
                those of B·T images.
            target: (B, 1, H, W) or (B, H, W), bool, or floating point from 0 to 1, of any resolution.
            given: (B,), bool: the images that have a target. The others are skipped, whatever their
                target holds. Default: all.

        Returns:
            The mean over the images that have a target, a scalar; 0 if none has.

        Raises:
            TypeError: If something is no tensor, or ``given`` not of bool.
            ValueError: If the shapes do not belong together, or targets are of whole numbers or, as far as
                they are on the CPU, beyond 0 to 1.
        """
        target = with_channel(target, "target")
        check_dtype(target, "target")
        maps = with_channel(attention_map).float()
        if given is not None and (not isinstance(given, Tensor) or given.dtype != torch.bool):
            kind = given.dtype if isinstance(given, Tensor) else type(given).__name__
            raise TypeError(f"given is {kind}, expected a tensor of bool, (B,)")
        if len(target) != len(maps) or (given is not None and given.shape != target.shape[:1]):
            raise ValueError(
                f"got {len(maps)} maps, targets of shape {tuple(target.shape)} and given "
                f"{None if given is None else tuple(given.shape)}, expected one of each per image"
            )
        target = resize_maps(target.float(), (maps.shape[-2], maps.shape[-1]))
        if given is None:
            given = torch.ones(len(maps), dtype=torch.bool, device=maps.device)
        chosen = given[:, None, None, None]
        if self.guidance != "match" or in_range(maps):  # those of official networks may go beyond
            check_range(torch.where(chosen, target, 0), "target")
        target = torch.where(chosen, target, maps.detach())  # what is skipped may be NaN
        distances: Tensor
        if self.guidance == "energy":
            positive = maps.clamp(min=0)
            inside, total = (positive * target).sum(dim=(1, 2, 3)), positive.sum(dim=(1, 2, 3))
            distances = 1 - inside / total.clamp(min=1e-3)  # less than a thousandth of a pixel is no map
        else:
            difference = target - maps if self.guidance == "match" else maps - maps * target
            distances = torch.linalg.vector_norm(difference, dim=(1, 2, 3))
        distances = torch.where(given, distances, 0)
        return distances.sum() / given.sum().clamp(min=1)
