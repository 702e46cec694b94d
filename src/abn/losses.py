"""The training losses of an Attention Branch Network: on its scores, and on its map."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from abn.modules.inputs import check_dtype, check_range, in_range, resize_maps, with_channel
from abn.network import ABNOutput

Criterion = Callable[[Tensor, Any], Tensor]
"""Takes logits and a target, and returns a scalar loss."""


class ABNLoss(nn.Module):
    r"""Adds a loss on the scores of the attention branch and a loss on the scores of the perception branch.

    .. math:: L = w_{att} \cdot L_{att} + w_{per} \cdot L_{per}

    The paper and the official code add two cross-entropies with equal weight (Fukui et al., CVPR 2019,
    section 3.3). For several tasks, the published loss is the loss of the attention branch plus the mean
    over the tasks of the losses of the perception branch. A criterion that takes the mean over the tasks,
    such as ``nn.BCEWithLogitsLoss()``, gives this loss.

    Args:
        criterion: Takes ``(logits, target)`` and returns a scalar. Default: cross-entropy, which is for
            classes. Tasks of a single value, with scores (B, T), need another criterion.
        attention_criterion: Criterion for the attention branch, if it differs. Default: ``criterion``.
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
            output: Output of the model.
            target: Any target that the criteria take. Cross-entropy takes class indices (B,) or
                probabilities (B, K), and for T tasks with K classes each, indices (B, T). A criterion of
                your own may take a dict of several targets.

        Returns:
            The weighted sum of the two losses, a scalar.

        Raises:
            TypeError: If ``output`` is not the output of an ABN.
            ValueError: If the criterion is the default, and the scores are a single value per image or task.
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
    r"""Draws attention maps towards targets that people made: boxes, masks, or maps edited by hand.

    M is the network's map of an image, M' is the target map. Norms and sums run over the pixels:

    - ``"match"``: :math:`\lVert M' - M \rVert_2`, the loss with which Mitsuhara et al., "Embedding Human
      Knowledge into Deep Neural Network via Attention Map", VISIGRAPP 2021, fine-tune on edited maps.
    - ``"suppress_outside"``: :math:`\lVert M - M \cdot M' \rVert_2`. Within the target region the map is
      free, so the region may be a rough box (Petryk et al., "GALS", CVPR 2022).
    - ``"energy"``: :math:`1 - \sum M M' / \sum M`, the share of the map outside the target region. With
      this loss, Rao et al., "Studying How to Efficiently and Effectively Guide Models with Explanations",
      ICCV 2023, guide networks by boxes. Negative values of a map count as 0. The loss does not depend on
      the scale of the map, and suits maps whose maximum is always 1.

    Add it to :class:`ABNLoss` with a weight γ of your choice. docs/explanations.md compares the three losses.

    Args:
        guidance: ``"match"``, ``"suppress_outside"`` or ``"energy"``.

    Raises:
        ValueError: If ``guidance`` is none of the three.

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
            attention_map: The model's map, (B, 1, h, w). For T tasks, pass ``attention_map.flatten(0, 1)``:
                the loss then treats the maps as those of B·T images.
            target: (B, 1, H, W) or (B, H, W), bool, or floating point from 0 to 1, of any resolution.
            given: (B,), bool: whether an image has a target. Images without one are skipped, whatever
                ``target`` holds for them. Default: all images have one.

        Returns:
            The mean over the images that have a target, a scalar; 0 if no image has one.

        Raises:
            TypeError: If an argument is no tensor, or ``given`` is not of bool.
            ValueError: If the shapes do not fit together, if targets hold whole numbers, or if targets on
                the CPU go beyond 0 to 1.
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
        # Maps of official networks may lie beyond 0 to 1. Then the targets that they are to match may, too.
        if self.guidance != "match" or in_range(maps):
            check_range(torch.where(chosen, target, 0), "target")
        target = torch.where(chosen, target, maps.detach())  # a skipped target may hold NaN
        distances: Tensor
        if self.guidance == "energy":
            positive = maps.clamp(min=0)
            inside, total = (positive * target).sum(dim=(1, 2, 3)), positive.sum(dim=(1, 2, 3))
            distances = 1 - inside / total.clamp(min=1e-3)  # no division by 0 for an empty map
        else:
            difference = target - maps if self.guidance == "match" else maps - maps * target
            distances = torch.linalg.vector_norm(difference, dim=(1, 2, 3))
        distances = torch.where(given, distances, 0)
        return distances.sum() / given.sum().clamp(min=1)
