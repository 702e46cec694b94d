"""The perception branch: how the map weights the features."""

import pytest
import torch
from torch import nn

from abn import PerceptionBranch


@pytest.fixture
def features():
    return torch.randn(2, 8, 6, 9)


def test_residual_mechanism_adds_the_attended_features(features):
    attention_map = torch.rand(2, 1, 6, 9)
    attended = PerceptionBranch(nn.Identity())(features, attention_map)
    torch.testing.assert_close(attended, (1 + attention_map) * features)


def test_multiplicative_mechanism_keeps_only_the_attended_features(features):
    attention_map = torch.rand(2, 1, 6, 9)
    attended = PerceptionBranch(nn.Identity(), mechanism="multiplicative")(features, attention_map)
    torch.testing.assert_close(attended, attention_map * features)


def test_zero_map_leaves_the_features_as_they_are_under_the_residual_mechanism(features):
    assert torch.equal(PerceptionBranch(nn.Identity())(features, torch.zeros(2, 1, 6, 9)), features)


def test_half_precision_does_not_round_a_weak_map_away():
    features = torch.ones(1, 1, 2, 2, dtype=torch.bfloat16) * 1.5
    tiny = torch.full((1, 1, 2, 2), 0.0078125 * 0.75, dtype=torch.bfloat16)  # 1 + map has no such neighbour
    attended = PerceptionBranch(nn.Identity())(features, tiny)
    exact = 1.5 * (1 + tiny.double())
    naive = ((1 + tiny) * features).double()
    assert (attended.double() - exact).abs().max() < (naive - exact).abs().max()


@pytest.mark.parametrize("shape", [(2, 1, 6, 9), (2, 6, 9), (1, 1, 6, 9), (1, 6, 9)])
def test_map_may_lack_the_channel_or_be_one_for_the_batch(features, shape):
    attended = PerceptionBranch(nn.Identity())(features, torch.ones(shape))
    assert torch.equal(attended, 2 * features)


def test_smaller_map_is_enlarged_bilinearly(features):
    attention_map = torch.tensor([[[[0.0, 1.0]]]]).expand(2, 1, 3, 2)
    attended = PerceptionBranch(nn.Identity(), mechanism="multiplicative")(
        torch.ones(2, 1, 3, 4), attention_map
    )
    torch.testing.assert_close(attended[0, 0, 0], torch.tensor([0.0, 0.25, 0.75, 1.0]))


def test_larger_map_is_averaged_so_that_fine_strokes_are_not_lost():
    stroke = torch.zeros(1, 1, 64, 64)
    stroke[..., 30, :] = 1.0  # one row, as drawn by hand on the image
    attended = PerceptionBranch(nn.Identity(), mechanism="multiplicative")(torch.ones(1, 1, 8, 8), stroke)
    torch.testing.assert_close(attended.mean(), stroke.mean(), atol=2e-3, rtol=0)


def test_map_takes_the_dtype_of_the_features(features):
    attended = PerceptionBranch(nn.Identity())(features.bfloat16(), torch.ones(2, 6, 9, dtype=torch.bool))
    assert attended.dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(3, 1, 6, 9), (2, 8, 6, 9), (3, 6, 9), (6, 9), (2, 1, 1, 6, 9)])
def test_map_of_another_shape_is_refused(features, shape):
    with pytest.raises(ValueError, match=r"attention_map has shape .* expected"):
        PerceptionBranch(nn.Identity())(features, torch.ones(shape))


def test_unknown_mechanism_is_refused():
    with pytest.raises(ValueError, match="mechanism is 'additive', expected one of"):
        PerceptionBranch(nn.Identity(), mechanism="additive")
