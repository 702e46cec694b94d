"""The training loss."""

from typing import get_args

import pytest
import torch
from torch import nn

from abn import ABNLoss, ABNOutput, AttentionMapLoss
from abn.losses import Guidance

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


@pytest.mark.parametrize(("tasks", "values"), [(3, 3), (1, 1)])
def test_single_values_need_a_criterion(tasks, values):
    output = ABNOutput(torch.zeros(2, values), torch.zeros(2, values), torch.rand(2, tasks, 4, 4))
    with pytest.raises(
        ValueError, match=rf"scores \(2, {values}\) are single values, but the default criterion"
    ):
        ABNLoss()(output, torch.zeros(2, values))
    torch.testing.assert_close(ABNLoss(nn.MSELoss())(output, torch.ones(2, values)), torch.tensor(2.0))


def test_map_loss_of_both_signs_measures_the_positive_part():
    attention_map = torch.tensor([[1.0, -3.0], [0.0, 3.0]]).view(1, 1, 2, 2)
    target = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).view(1, 2, 2)
    torch.testing.assert_close(AttentionMapLoss("energy")(attention_map, target), torch.tensor(1 - 1 / 4))


def test_map_loss_by_hand():
    attention_map = torch.tensor([[1.0, 0.5], [0.0, 0.8]]).view(1, 1, 2, 2)
    target = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).view(1, 2, 2)
    match = AttentionMapLoss()(attention_map, target)
    torch.testing.assert_close(match, torch.tensor(0.5**2 + 0.8**2).sqrt())
    outside = AttentionMapLoss("suppress_outside")(attention_map, target)
    torch.testing.assert_close(outside, torch.tensor(0.8))  # what lies within the target is free
    energy = AttentionMapLoss("energy")(attention_map, target)
    torch.testing.assert_close(energy, torch.tensor(1 - 1.5 / 2.3))  # the share outside


@pytest.mark.parametrize("guidance", get_args(Guidance))
def test_map_loss_skips_images_without_a_target(guidance):
    maps = torch.rand(3, 1, 4, 4)
    targets = torch.stack([torch.eye(4), torch.full((4, 4), torch.nan), torch.zeros(4, 4)])
    loss = AttentionMapLoss(guidance)
    skipping = loss(maps, targets, given=torch.tensor([True, False, True]))
    torch.testing.assert_close(skipping, (loss(maps[:1], targets[:1]) + loss(maps[2:], targets[2:])) / 2)


@pytest.mark.parametrize("guidance", get_args(Guidance))
def test_map_loss_of_no_targets_is_zero_and_has_a_gradient(guidance):
    maps = torch.rand(2, 1, 4, 4, requires_grad=True)
    loss = AttentionMapLoss(guidance)(maps, torch.ones(2, 4, 4), given=torch.tensor([False, False]))
    loss.backward()
    assert loss.item() == 0
    assert maps.grad.abs().sum() == 0


@pytest.mark.parametrize("guidance", get_args(Guidance))
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_map_loss_has_a_finite_gradient_where_map_and_target_are_equal(guidance, value):
    maps = torch.full((1, 1, 4, 4), value, requires_grad=True)
    AttentionMapLoss(guidance)(maps, torch.full((1, 4, 4), value)).backward()
    assert maps.grad.isfinite().all()


def test_map_loss_brings_the_target_to_the_resolution_of_the_map():
    boxes = torch.zeros(1, 32, 32, dtype=torch.bool)
    boxes[:, :16, :16] = True
    coarse = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).view(1, 1, 2, 2)
    corners = [AttentionMapLoss()(coarse.flip(dims), boxes).item() for dims in ((), (2,), (3,), (2, 3))]
    assert corners[0] < 0.5 < 1 < min(corners[1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.rand(2, 1, 4, 4), torch.rand(2, 3, 4, 4)), r"target has shape \(2, 3, 4, 4\), expected"),
        ((torch.rand(2, 1, 4, 4), torch.rand(1, 4, 4)), "one of each per image"),
        ((torch.rand(2, 1, 4, 4), torch.rand(2, 4, 4), torch.ones(3, dtype=torch.bool)), "one of each"),
    ],
)
def test_map_loss_refuses_other_shapes(arguments, message):
    with pytest.raises(ValueError, match=message):
        AttentionMapLoss()(*arguments)


@pytest.mark.parametrize("guidance", ["match", "suppress_outside", "energy"])
def test_map_loss_refuses_targets_beyond_0_to_1(guidance):
    loss, maps = AttentionMapLoss(guidance), torch.rand(2, 1, 4, 4)
    mask = torch.ones(2, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"target is torch\.uint8, expected bool, or floating point"):
        loss(maps, mask * 255)
    with pytest.raises(ValueError, match="target goes from 255 to 255, expected values from 0 to 1"):
        loss(maps, mask * 255.0)
    with pytest.raises(ValueError, match="target goes from nan to nan"):
        loss(maps, mask * torch.nan)
    assert torch.equal(loss(maps, mask.bool()), loss(maps, mask.float()))


def test_map_loss_compiles_and_checks_what_is_given_alone():
    loss, maps = AttentionMapLoss("suppress_outside"), 8 * torch.randn(2, 1, 4, 4)  # of both signs
    mask, given = (torch.rand(2, 1, 4, 4) > 0.5).float(), torch.tensor([True, False])
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(maps, mask, given), loss(maps, mask, given))


@pytest.mark.parametrize("given", [torch.tensor([1, 0]), [True, False]])
def test_images_that_have_a_target_are_given_as_bool(given):
    with pytest.raises(TypeError, match=r"given is .*, expected a tensor of bool"):
        AttentionMapLoss()(torch.rand(2, 1, 4, 4), torch.rand(2, 4, 4), given)


def test_loss_of_something_else_than_an_output_is_refused():
    with pytest.raises(
        TypeError, match=r"output is a tuple, expected what an ABN returns; of a tuple ABNOutput"
    ):
        ABNLoss()((torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 1, 4, 4)), torch.tensor([0]))


def test_map_loss_takes_targets_like_the_maps_where_these_have_no_bounds():
    maps = torch.tensor([[[[-3.0, 4.0]]]])
    assert AttentionMapLoss()(maps, torch.tensor([[[[-3.0, 2.0]]]])) == 2


def test_unknown_guidance_is_refused():
    with pytest.raises(ValueError, match=r"guidance is 'outside', expected one of \('match', "):
        AttentionMapLoss("outside")
