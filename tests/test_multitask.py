"""Networks of several tasks: a map for each, and a pass of the perception branch through each."""

import pytest
import torch
from architectures import FAMILIES, build
from torch import nn
from torch.nn import functional as F

from abn import (
    ABN,
    ABNLoss,
    MultiTaskAttentionBranch,
    MultiTaskPerceptionBranch,
    ResponseAttentionBranch,
    hub,
    wrap_backbone,
)
from abn.multitask import TaskMapKind

IMAGES = torch.randn(2, 3, 64, 64)


def network(tasks: int = 3, **arguments: object) -> ABN:
    return wrap_backbone(build("timm/test_resnet"), tasks=tasks, input_size=64, **arguments).eval()


# The attention branch


def two_tasks(**arguments: object) -> MultiTaskAttentionBranch:
    """Its responses are its two channels of features; 2 speaks for the first task, 4 for the second."""
    branch = MultiTaskAttentionBranch(in_channels=2, tasks=2, **arguments).eval()
    for norm in (branch.norm, branch.response_norm):
        norm.eps = 0.0
    with torch.no_grad():
        branch.response_conv.weight.copy_(torch.eye(2)[:, :, None, None])
        branch.classifier.weight.copy_(torch.diag(torch.tensor([2.0, 4.0]))[:, :, None, None])
        branch.classifier.bias.copy_(torch.tensor([-1.0, 1.0]))
    return branch


def test_each_task_has_the_map_of_its_own_evidence_by_hand():
    features = torch.zeros(1, 2, 8, 8)
    features[0, 0, 1, 1] = 8.0  # a single pixel each, of which the mean makes 3×3
    features[0, 1, 5, 5] = 2.0
    logits, maps = two_tasks()(features)
    torch.testing.assert_close(logits, torch.tensor([[2 * 8 / 64 - 1, 4 * 2 / 64 + 1]]))
    expected = torch.zeros(1, 2, 8, 8)
    expected[0, 0, :3, :3] = 1
    expected[0, 1, 4:7, 4:7] = 1
    torch.testing.assert_close(maps, expected)


def test_what_speaks_against_a_task_is_not_in_its_map():
    branch = two_tasks()
    with torch.no_grad():
        branch.classifier.weight[0, 1] = -3.0  # the second response, against the first task
    features = torch.zeros(1, 2, 8, 8)
    features[0, :, 1, 1] = 8.0
    features[0, 1, 5, 5] = 9.0
    _, maps = branch(features)
    assert maps[0, 0].sum() == 0  # 2 · 8 - 3 · 8 < 0
    assert maps[0, 1].sum() > 0


def test_map_of_a_task_of_classes_shows_the_classes_that_it_sees():
    branch = MultiTaskAttentionBranch(in_channels=8, tasks=3, num_classes=5).eval()
    features = torch.randn(2, 8, 6, 9)
    logits, maps = branch(features)
    assert logits.shape == (2, 5, 3)
    assert maps.shape == (2, 3, 6, 9)
    responses = branch.responses(features)
    for task in range(3):
        shares = torch.zeros(2, 5, 3)
        shares[:, :, task] = logits[:, :, task].softmax(dim=1)
        alone = branch.class_activation(responses, shares.flatten(1))
        torch.testing.assert_close(maps[:, task : task + 1], alone)


def test_a_new_branch_is_undecided_about_its_tasks():
    branch = MultiTaskAttentionBranch(in_channels=64, tasks=20)  # in training: the norms are live
    logits, _ = branch(torch.randn(32, 64, 14, 14))
    assert abs(logits.mean().item()) < 0.1


def test_responses_are_maps_and_scores_in_one():
    branch = ResponseAttentionBranch(in_channels=8, tasks=3, scaled=True)
    features = torch.randn(2, 8, 6, 9)
    logits, maps = branch(features)
    scale, offset = branch.depth_conv.weight.view(1, 3, 1, 1), branch.depth_conv.bias.view(1, 3, 1, 1)
    torch.testing.assert_close(maps, branch.task_conv(features) * scale + offset)
    torch.testing.assert_close(logits, maps.mean(dim=(2, 3)))
    assert maps.min() < 0 < maps.max()


# The perception branch


def tail(outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(8, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, outputs)
    )


@pytest.mark.parametrize("num_classes", [None, 1, 2])
@pytest.mark.parametrize("mechanism", ["residual", "multiplicative"])
@pytest.mark.parametrize("chunk", [None, 1, 2, 3, 7])
def test_each_task_is_read_by_its_own_head_from_features_attended_by_its_own_map(
    num_classes, mechanism, chunk
):
    classes, tasks = num_classes or 1, 5
    shared = tail(classes * tasks)
    branch = MultiTaskPerceptionBranch(shared, tasks, mechanism, num_classes=num_classes, chunk=chunk)
    features, maps = torch.randn(2, 8, 6, 9), torch.rand(2, tasks, 6, 9)
    logits = branch(features, maps)
    assert logits.shape == ((2, tasks) if num_classes is None else (2, classes, tasks))
    for task in range(tasks):
        weight = maps[:, task : task + 1] + (mechanism == "residual")
        expected = shared(weight * features)[:, task::tasks]  # (2, K)
        torch.testing.assert_close(logits.view(2, classes, tasks)[:, :, task], expected)


@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (1, 5, 6, 9), (2, 1, 6, 9), (2, 6, 9), (1, 6, 9)])
def test_one_map_may_serve_all_images_or_tasks_in_any_resolution(shape):
    branch = MultiTaskPerceptionBranch(tail(5), tasks=5)
    features, maps = torch.randn(2, 8, 6, 9), torch.rand(shape)
    every = maps if maps.ndim == 4 else maps[:, None]
    every = F.interpolate(every, (6, 9), mode="bilinear").expand(2, 5, 6, 9)
    torch.testing.assert_close(branch(features, maps), branch(features, every))


@pytest.mark.parametrize("shape", [(3, 5, 6, 9), (2, 4, 6, 9), (6, 9), (2, 5, 1, 6, 9)])
def test_maps_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"attention_map has shape .* expected \(B, 5, h, w\)"):
        MultiTaskPerceptionBranch(tail(5), tasks=5)(torch.randn(2, 8, 6, 9), torch.ones(shape))


# The network


@pytest.mark.parametrize("name", FAMILIES)
def test_any_backbone_takes_several_tasks(name):
    size = 160 if "coatnet" in name else 64
    model = wrap_backbone(build(name), tasks=3, input_size=size)
    output = model(torch.randn(2, 3, size, size))
    assert output.attention_logits.shape == output.perception_logits.shape == (2, 3)
    assert output.attention_map.shape[:2] == (2, 3)
    ABNLoss(nn.BCEWithLogitsLoss())(output, torch.ones(2, 3)).backward()
    assert [key for key, value in model.named_parameters() if value.grad is None] == []


def test_zero_maps_leave_the_plain_networks_scores():
    model = network()
    plain = nn.Sequential(model.feature_extractor, model.perception_branch.tail)
    scores = model(IMAGES, attention_map=torch.zeros(1, 1, 1, 1)).perception_logits
    torch.testing.assert_close(scores, plain(IMAGES))


@pytest.mark.parametrize(
    ("arguments", "attention", "perception"),
    [
        ({}, (2, 3), (2, 3)),
        ({"num_classes": 4}, (2, 4, 3), (2, 4, 3)),
        ({"map": "response"}, (2, 3), (2, 3)),
        ({"map": "scaled_response", "num_classes": 2}, (2, 3), (2, 2, 3)),
        ({"tasks": 1}, (2, 1), (2, 1)),
        ({"response_channels": 7}, (2, 3), (2, 3)),
    ],
)
def test_shapes_of_the_scores(arguments, attention, perception):
    output = network(**arguments)(IMAGES)
    assert output.attention_logits.shape == attention
    assert output.perception_logits.shape == perception
    assert output.attention_map.shape == (2, attention[-1], 4, 4)


@pytest.mark.parametrize("map", TaskMapKind.__args__)
def test_saved_network_comes_back(map, tmp_path):
    model = wrap_backbone("timm/test_resnet", tasks=3, num_classes=2, map=map, input_size=64).eval()
    model.classes = ("hat", "tie", "smile")
    model.save_pretrained(tmp_path)
    loaded = hub.load(tmp_path)
    assert loaded.classes == model.classes
    with torch.no_grad():
        for one, other in zip(loaded(IMAGES), model(IMAGES), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": 0}, "tasks is 0, expected a number of at least 1"),
        ({"tasks": True}, "tasks is True, expected a number"),
        ({"map": "convolution"}, r"map is 'convolution', expected one of \('class_activation', 'response', "),
        (
            {"map": "response", "response_channels": 8},
            "response_channels is 8, but map='response' has one per task",
        ),
        (
            {"tasks": None, "map": "response"},
            r"map is 'response', expected one of \('class_activation', 'conv",
        ),
    ],
)
def test_arguments_that_make_no_network_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        network(**arguments)


# One value, and very many classes


def test_a_single_value_is_told_from_more_than_one_channel():
    model = wrap_backbone(build("timm/test_resnet"), num_classes=1, input_size=64)
    assert model.attention_branch.response_conv.out_channels == 16
    output = model(IMAGES)
    assert output.attention_logits.shape == output.perception_logits.shape == (2, 1)
    ABNLoss(nn.MSELoss())(output, torch.tensor([[0.5], [-2.0]])).backward()


def test_very_many_classes_have_no_weight_for_each_pair():
    with torch.device("meta"):
        branch = MultiTaskAttentionBranch(in_channels=512, tasks=21841)
    assert sum(weight.numel() for weight in branch.parameters()) < 50e6  # 21841² are 477e6
    assert branch.classifier.weight.shape == (21841, 2048, 1, 1)


@pytest.mark.parametrize("width", [4, 64])
def test_scores_of_another_response_width_begin_as_far_apart_as_those_of_the_usual_one(width):
    branch = MultiTaskAttentionBranch(in_channels=8, tasks=16, response_channels=width)
    lengths = branch.classifier.weight.flatten(1).norm(dim=1)
    assert lengths.pow(2).mean().sqrt().item() == pytest.approx(10, rel=0.2)


# Losses of several kinds


def test_each_branch_may_have_its_own_criterion():
    model = network(map="scaled_response", num_classes=2)
    output, present = model(IMAGES), torch.tensor([[0, 1, 1], [1, 0, 1]])

    def of_attention(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(logits, target.float())

    loss = ABNLoss(attention_criterion=of_attention)(output, present)
    by_hand = of_attention(output.attention_logits, present)
    for task in range(3):  # as published: the mean over the tasks
        by_hand = by_hand + F.cross_entropy(output.perception_logits[:, :, task], present[:, task]) / 3
    torch.testing.assert_close(loss, by_hand)


def test_target_may_be_a_dict_such_as_of_a_hierarchy():
    model = wrap_backbone(build("timm/test_resnet"), num_classes=2 + 6, input_size=64)
    target = {"genus": torch.tensor([0, 1]), "species": torch.tensor([2, 5])}

    def hierarchy(logits: torch.Tensor, target: dict[str, torch.Tensor]) -> torch.Tensor:
        parts = dict(zip(target, logits.split([2, 6], dim=1), strict=True))
        return sum(F.cross_entropy(parts[level], target[level]) for level in target)

    output = model(IMAGES)
    expected = hierarchy(output.attention_logits, target) + hierarchy(output.perception_logits, target)
    torch.testing.assert_close(ABNLoss(hierarchy)(output, target), expected)
