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


def test_convolution_by_hand():
    # One channel, one class; identity norms (eval mode) and a 1×1 weight of 1: the responses are the
    # features. A 3×3 kernel of ones then sums the neighbourhood: 1 everywhere around the single 1.
    branch = AttentionBranch(in_channels=1, num_classes=1, map="convolution", response_channels=1).eval()
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
    with pytest.raises(
        ValueError, match=r"map is 'softmax', expected without tasks= one of 'evidence', 'class_activation', "
    ):
        AttentionBranch(in_channels=2, num_classes=2, map="softmax")


def test_a_new_convolution_rises_with_the_class_responses():
    branch = AttentionBranch(
        in_channels=8, num_classes=5, map="convolution"
    )  # in training: the norms are live
    features = torch.randn(4, 8, 12, 12)
    _, attention_map = branch(features)
    evidence = nn.functional.avg_pool2d(branch.responses(features).sum(1, keepdim=True), 3, 1, 1)
    correlation = torch.corrcoef(torch.stack([attention_map.flatten(), evidence.flatten()]))[0, 1]
    assert correlation > 0.9


def two_classes(map: str = "class_activation") -> AttentionBranch:
    """Its responses are its two channels of features; 2 speaks for the first class, 4 for the second."""
    branch = AttentionBranch(in_channels=2, num_classes=2, map=map).eval()
    for norm in (branch.norm, branch.response_norm):
        norm.eps = 0.0
    with torch.no_grad():
        branch.response_conv.weight.copy_(torch.eye(2)[:, :, None, None])
        branch.classifier.weight.copy_(torch.diag(torch.tensor([2.0, 4.0]))[:, :, None, None])
    return branch


def test_class_activation_by_hand():
    branch = two_classes()
    responses = torch.zeros(1, 2, 8, 8)
    responses[0, 0, 1, 1] = 8.0  # a single pixel each, of which the mean makes 3×3
    responses[0, 0, 5, 5] = 2.0
    responses[0, 1, 1, 5] = 9.0
    mixed = branch.class_activation(responses, torch.tensor([[0.9, 0.1]]))
    only = branch.class_activation(responses, torch.tensor([[1.0, 0.0]]))
    expected = torch.zeros(8, 8)
    expected[:3, :3] = 1
    expected[4:7, 4:7] = 1 / (2 - 0.25**4)  # a quarter of the maximum
    torch.testing.assert_close(only[0, 0], expected)
    expected[:3, 4:7] = 1 / (2 - 0.25**4)  # 0.1 × 4 × 9 is a quarter of 0.9 × 2 × 8
    torch.testing.assert_close(mixed[0, 0], expected)


def test_evidence_by_hand():
    branch = two_classes("evidence")
    responses = torch.zeros(1, 2, 12, 12)
    responses[0, 0, 2, 2] = 9.0  # a single pixel each, of which two means over 3×3 pixels make a pyramid
    responses[0, 0, 8, 8] = 4.5
    only = branch.class_activation(responses, torch.tensor([[1.0, 0.0]])).detach()
    pyramid = torch.outer(*[torch.tensor([1.0, 2.0, 3.0, 2.0, 1.0]) / 3] * 2)
    shares = torch.zeros(12, 12)
    shares[:5, :5] = pyramid
    shares[6:11, 6:11] = pyramid / 2
    expected = shares**6 / (shares**6 + 0.5**6 * (1 - shares**6))
    torch.testing.assert_close(only[0, 0], expected)
    assert only[0, 0, 8, 8] == pytest.approx(1 / (2 - 0.5**6))  # at half the maximum one half


def test_class_activation_shows_the_classes_that_the_branch_sees():
    branch = two_classes()
    features = torch.zeros(2, 2, 9, 9)
    features[:, 0, 1, 1] = torch.tensor([400.0, 100.0])  # speaks for the first class
    features[:, 1, 6, 6] = torch.tensor([50.0, 200.0])  # speaks for the second
    logits, attention_map = branch(features)
    assert logits.argmax(dim=1).tolist() == [0, 1]
    first, second = attention_map[:, 0]
    assert (first[1, 1], second[6, 6]) == (1, 1)
    assert max(first[6, 6], second[1, 1]) < 1e-6


def test_class_activation_of_any_class_comes_with_one_forward_pass():
    branch = AttentionBranch(in_channels=8, num_classes=5).eval()
    features = torch.randn(2, 8, 6, 9)
    responses = branch.responses(features)
    logits, attention_map = branch(features)
    again = branch.class_activation(responses, logits.softmax(dim=1))
    torch.testing.assert_close(again, attention_map)
    of_each = [branch.class_activation(responses, shares.expand(2, 5)) for shares in torch.eye(5)]
    assert len({tuple(maps.flatten().tolist()) for maps in of_each}) == 5


def test_class_activation_does_not_depend_on_the_responses_scale():
    branch = AttentionBranch(in_channels=8, num_classes=5)
    responses, shares = torch.rand(2, 5, 6, 9), torch.eye(5)[:2]
    expected = branch.class_activation(responses, shares)
    torch.testing.assert_close(branch.class_activation(1e-4 * responses, shares), expected)


def test_class_activation_without_evidence_is_zero_and_has_a_gradient():
    branch = AttentionBranch(in_channels=8, num_classes=5)
    responses = torch.zeros(2, 5, 6, 9, requires_grad=True)
    attention_map = branch.class_activation(responses, torch.eye(5)[:2])
    attention_map.sum().backward()
    assert attention_map.abs().sum() == 0
    assert responses.grad.isfinite().all()


def test_class_activation_of_a_single_class_is_its_response():
    branch = AttentionBranch(in_channels=8, num_classes=1)
    _, attention_map = branch(torch.randn(4, 8, 6, 9))
    assert attention_map.amax(dim=(1, 2, 3)).tolist() == pytest.approx([1] * 4)


def test_a_new_branch_scores_each_class_by_its_own_response():
    branch = AttentionBranch(in_channels=8, num_classes=5).eval()
    features = torch.randn(2, 8, 6, 9)
    logits, _ = branch(features)
    torch.testing.assert_close(logits, 10 * branch.responses(features).mean(dim=(2, 3)))


def test_stage_runs_before_the_heads():
    stage = nn.Conv2d(8, 16, kernel_size=3, stride=2, padding=1)
    branch = AttentionBranch(in_channels=16, num_classes=5, stage=stage)
    _, attention_map = branch(torch.randn(2, 8, 6, 10))
    assert attention_map.shape == (2, 1, 3, 5)


@pytest.mark.parametrize("arguments", [{"in_channels": 0}, {"num_classes": 0}, {"num_classes": -1}])
def test_counts_below_one_are_refused(arguments):
    with pytest.raises(
        ValueError, match=r"(in_channels|num_classes) is -?\d, expected a number of at least 1"
    ):
        AttentionBranch(**{"in_channels": 8, "num_classes": 5, **arguments})


@pytest.mark.parametrize("shape", [(2, 8), (2, 8, 1, 1)])
def test_features_without_pixels_are_refused(shape):
    branch = AttentionBranch(in_channels=8, num_classes=5)
    with pytest.raises(ValueError, match="more than one pixel"):
        branch(torch.randn(shape))


def test_a_single_response_reaches_every_class():
    branch = AttentionBranch(in_channels=8, num_classes=5, response_channels=1)
    assert (branch.classifier.weight != 0).all()


@pytest.mark.parametrize("kind", ["convolution", "log_sum"])
def test_class_activation_of_a_map_without_evidence_is_refused(kind):
    branch = AttentionBranch(in_channels=8, num_classes=5, map=kind)
    responses = branch.responses(torch.randn(2, 8, 6, 6))
    with pytest.raises(ValueError, match=f"map is '{kind}', which is not made of evidence for classes"):
        branch.class_activation(responses, torch.eye(5)[:2])
