"""The attention branch: what it computes, and what it refuses."""

import pytest
import torch
from torch import nn

from abn import AttentionBranch


def test_returns_scores_and_a_map_between_0_and_1():
    branch = AttentionBranch(in_channels=8, num_classes=5)
    logits, attention_map = branch(torch.randn(2, 8, 6, 9))
    assert logits.shape == (2, 5)
    assert attention_map.shape == (2, 1, 6, 9)
    assert 0 <= attention_map.min() < attention_map.max() <= 1


def test_logits_equal_convolving_every_pixel_and_pooling_afterwards():
    branch = AttentionBranch(in_channels=8, num_classes=5).eval()
    features = torch.randn(2, 8, 6, 9)
    logits, _ = branch(features)
    as_published = branch.classifier(branch.responses(features)).mean(dim=(2, 3))
    torch.testing.assert_close(logits, as_published)


def test_map_of_a_branch_solved_by_hand():
    # One channel, one class; identity norms (eval mode) and a 1×1 weight of 1: the responses are the
    # features. A 3×3 kernel of ones then sums the neighbourhood: 1 everywhere around the single 1.
    branch = AttentionBranch(in_channels=1, num_classes=1).eval()
    for norm in (branch.norm, branch.response_norm, branch.map_norm):
        norm.eps = 0.0
    nn.init.ones_(branch.response_conv.weight)
    nn.init.ones_(branch.map_conv.weight)
    nn.init.constant_(branch.classifier.weight, 3.0)
    features = torch.zeros(1, 1, 5, 5)
    features[0, 0, 2, 2] = 1.0

    logits, attention_map = branch(features)

    expected = torch.full((5, 5), 0.5)  # sigmoid(0)
    expected[1:4, 1:4] = torch.sigmoid(torch.tensor(1.0))
    torch.testing.assert_close(attention_map[0, 0], expected)
    torch.testing.assert_close(logits, torch.tensor([[3.0 / 25]]))


def test_log_sum_adds_up_all_classes_by_hand():
    branch = AttentionBranch(in_channels=2, num_classes=2, map="log_sum").eval()
    for norm in (branch.norm, branch.response_norm):
        norm.eps = 0.0
    with torch.no_grad():
        branch.response_conv.weight.copy_(torch.eye(2)[:, :, None, None])
    features = torch.tensor([3.0, -1.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    _, attention_map = branch(features)
    torch.testing.assert_close(attention_map, torch.full((1, 1, 4, 4), 4.0).log())  # log(1 + 3) + log(1 + 0)
    assert not hasattr(branch, "map_conv")


def test_unknown_kind_of_map_is_refused():
    with pytest.raises(ValueError, match=r"map is 'softmax', expected one of \('convolution', 'log_sum'\)"):
        AttentionBranch(in_channels=2, num_classes=2, map="softmax")


def test_a_new_map_rises_with_the_class_responses():
    branch = AttentionBranch(in_channels=8, num_classes=5)  # training mode: the norms are live
    features = torch.randn(4, 8, 12, 12)
    _, attention_map = branch(features)
    evidence = nn.functional.avg_pool2d(branch.responses(features).sum(1, keepdim=True), 3, 1, 1)
    correlation = torch.corrcoef(torch.stack([attention_map.flatten(), evidence.flatten()]))[0, 1]
    assert correlation > 0.9


def test_stage_runs_before_the_heads():
    stage = nn.Conv2d(8, 16, kernel_size=3, stride=2, padding=1)
    branch = AttentionBranch(in_channels=16, num_classes=5, stage=stage)
    _, attention_map = branch(torch.randn(2, 8, 6, 10))
    assert attention_map.shape == (2, 1, 3, 5)


@pytest.mark.parametrize("arguments", [{"in_channels": 0}, {"num_classes": 0}, {"num_classes": -1}])
def test_counts_below_one_are_refused(arguments):
    with pytest.raises(ValueError, match=r"(in_channels|num_classes) is -?\d, expected at least 1"):
        AttentionBranch(**{"in_channels": 8, "num_classes": 5, **arguments})


@pytest.mark.parametrize("shape", [(2, 8), (2, 8, 1, 1)])
def test_features_without_pixels_are_refused(shape):
    branch = AttentionBranch(in_channels=8, num_classes=5)
    with pytest.raises(ValueError, match="more than one pixel"):
        branch(torch.randn(shape))
