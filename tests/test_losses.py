"""The training loss."""

import torch
from torch import nn

from abn import ABNLoss, ABNOutput

OUTPUT = ABNOutput(
    attention_logits=torch.tensor([[2.0, 0.0], [0.0, 1.0]]),
    perception_logits=torch.tensor([[0.0, 3.0], [1.0, 1.0]]),
    attention_map=torch.rand(2, 1, 4, 4),
)
TARGET = torch.tensor([0, 1])


def test_adds_the_cross_entropies_of_both_branches():
    expected = nn.functional.cross_entropy(OUTPUT.attention_logits, TARGET)
    expected += nn.functional.cross_entropy(OUTPUT.perception_logits, TARGET)
    torch.testing.assert_close(ABNLoss()(OUTPUT, TARGET), expected)


def test_weights_each_branch():
    loss = ABNLoss(attention_weight=0.5, perception_weight=0.0)(OUTPUT, TARGET)
    torch.testing.assert_close(loss, 0.5 * nn.functional.cross_entropy(OUTPUT.attention_logits, TARGET))


def test_takes_any_criterion_such_as_one_for_several_labels():
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    criterion = nn.BCEWithLogitsLoss()
    expected = criterion(OUTPUT.attention_logits, labels) + criterion(OUTPUT.perception_logits, labels)
    torch.testing.assert_close(ABNLoss(criterion)(OUTPUT, labels), expected)
