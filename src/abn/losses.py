"""The training loss of an Attention Branch Network."""

from collections.abc import Callable

from torch import Tensor, nn

from abn.network import ABNOutput


class ABNLoss(nn.Module):
    r"""One criterion on the scores of both branches, added.

    .. math:: L = w_{att} \cdot L_{att} + w_{per} \cdot L_{per}

    The paper and the official code add the two cross-entropies with equal weight (Fukui et al.,
    CVPR 2019, section 3.3).

    Args:
        criterion: ``(logits, target)`` to a scalar. Default: cross-entropy.
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
        criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        attention_weight: float = 1.0,
        perception_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.criterion = nn.CrossEntropyLoss() if criterion is None else criterion
        self.attention_weight = attention_weight
        self.perception_weight = perception_weight

    def extra_repr(self) -> str:
        return f"attention_weight={self.attention_weight}, perception_weight={self.perception_weight}"

    def forward(self, output: ABNOutput, target: Tensor) -> Tensor:
        """Computes the loss.

        Args:
            output: What the model returned.
            target: Whatever the criterion takes, for cross-entropy class indices (B,) or
                probabilities (B, K).

        Returns:
            The weighted sum, a scalar.
        """
        attention_loss = self.criterion(output.attention_logits, target)
        perception_loss = self.criterion(output.perception_logits, target)
        return self.attention_weight * attention_loss + self.perception_weight * perception_loss
