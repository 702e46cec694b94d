"""Networks of several tasks: a map for each, and a pass of the perception branch through each."""

import json
import logging
from pathlib import Path

import pytest
import torch
from architectures import FAMILIES, ONE_SIZE, build
from PIL import Image
from torch import nn
from torch.nn import functional as F

from abn import (
    ABN,
    ABNLoss,
    MultiTaskAttentionBranch,
    MultiTaskPerceptionBranch,
    ResponseAttentionBranch,
    abn_cifar_resnet,
    abn_resnet18,
    abn_resnet101,
    hub,
    wrap_backbone,
)
from abn.hub.official import to_reference
from abn.modules.maps import MAPS

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


@pytest.mark.parametrize(("tasks", "width"), [(20, None), (20, 64), (20, 4), (1, None)])
def test_a_new_branch_is_undecided_about_its_tasks(tasks, width):
    branch = MultiTaskAttentionBranch(64, tasks, response_channels=width)  # in training: the norms are live
    logits, _ = branch(torch.randn(32, 64, 14, 14))
    assert logits.mean(dim=0).abs().max() < 0.5


@pytest.mark.parametrize("num_classes", [None, 3])
def test_half_precision_changes_little(num_classes):
    branch = MultiTaskAttentionBranch(8, 5, num_classes=num_classes).eval()
    features = torch.randn(2, 8, 6, 9)
    exact = branch(features)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = branch(features)
    for one, other in zip(exact, rounded, strict=True):
        torch.testing.assert_close(one, other.float(), atol=0.05, rtol=0.05)


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


@pytest.mark.parametrize("outputs", [4, 10])
def test_tail_with_another_number_of_scores_is_refused(outputs):
    branch = MultiTaskPerceptionBranch(tail(outputs), tasks=5)
    with pytest.raises(
        ValueError, match=rf"tail returns \('B', {outputs}\), expected \(B, 5\): 1 for each of 5"
    ):
        branch(torch.randn(2, 8, 6, 9), torch.rand(2, 5, 6, 9))


@pytest.mark.parametrize("chunk", [0, -1, 2.5])
def test_chunk_that_is_no_number_of_tasks_is_refused(chunk):
    branch = MultiTaskPerceptionBranch(tail(5), tasks=5)
    branch.chunk = chunk
    with pytest.raises(ValueError, match=rf"chunk is {chunk}, expected a number of at least 1"):
        branch(torch.randn(2, 8, 6, 9), torch.rand(2, 5, 6, 9))


@pytest.mark.parametrize("tasks", [1, 5])
def test_features_keep_their_memory_format(tasks):
    seen = []
    shared = tail(tasks)
    shared.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    features = torch.randn(2, 8, 6, 9).contiguous(memory_format=torch.channels_last)
    maps = torch.rand(2, tasks, 6, 9).contiguous(memory_format=torch.channels_last)
    MultiTaskPerceptionBranch(shared, tasks)(features, maps)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


# The network


def test_map_of_another_branch_is_refused():
    with pytest.raises(ValueError, match="map is 'response', which is that of a ResponseAttentionBranch"):
        MultiTaskAttentionBranch(in_channels=8, tasks=2, map="response")


@pytest.mark.parametrize("name", FAMILIES)
def test_any_backbone_takes_several_tasks(name):
    size = ONE_SIZE.get(name, 64)
    model = wrap_backbone(build(name), tasks=3, input_size=size)
    output = model(torch.randn(2, 3, size, size))
    assert output.attention_logits.shape == output.perception_logits.shape == (2, 3)
    assert output.attention_map.shape[:2] == (2, 3)
    ABNLoss(nn.BCEWithLogitsLoss())(output, torch.ones(2, 3)).backward()
    assert [key for key, value in model.named_parameters() if value.grad is None] == []


def test_maps_of_ones_leave_the_plain_networks_scores():
    model = network()
    plain = nn.Sequential(model.feature_extractor, model.perception_branch.tail)
    scores = model(IMAGES, attention_map=torch.ones(1, 1, 1, 1)).perception_logits
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


@pytest.mark.parametrize("map", [kind.name for kind in MAPS.values() if kind.for_tasks])
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
        ({"map": "convolution"}, "map is 'convolution', expected with tasks= one of 'evidence', "),
        (
            {"map": "response", "num_classes": 3},
            "num_classes is 3, but map='response' is for tasks of one value, or of no and yes",
        ),
        (
            {"map": "response", "response_channels": 8},
            "response_channels is 8, but map='response' has one per task",
        ),
        (
            {"tasks": None, "map": "response"},
            "map is 'response', expected without tasks= one of 'evidence', ",
        ),
    ],
)
def test_arguments_that_make_no_network_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        network(**arguments)


# One value, and very many classes


def test_a_single_value_is_told_from_more_than_one_channel():
    model = wrap_backbone(build("timm/test_resnet"), num_classes=1, input_size=64, start="new")
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


# Official networks, in files


def official(**arguments: object) -> ABN:
    """Every weight and statistic differs from what a new network has."""
    arguments = {"tasks": 3, "map": "response", "mechanism": "multiplicative", **arguments}
    model = abn_resnet18(**arguments).eval()
    for value in model.state_dict().values():
        value.copy_(torch.rand_like(value, dtype=torch.float32) + 0.5)
    return model


def assert_equal(ours: ABN, theirs: ABN) -> None:
    with torch.no_grad():
        for one, other in zip(ours(IMAGES), theirs(IMAGES), strict=True):
            assert torch.equal(one, other)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """As the official trainer writes it."""
    state_dict = {f"module.{key}": value for key, value in to_reference(official().state_dict()).items()}
    torch.save({"epoch": 10, "iteration": 9, "model_state_dict": state_dict}, tmp_path / "checkpoint-best.pt")
    return tmp_path / "checkpoint-best.pt"


@pytest.mark.parametrize("arguments", [{}, {"num_classes": 2}, {"map": "scaled_response", "num_classes": 2}])
@pytest.mark.parametrize("names", ["official names", "our names"])
def test_official_weights_need_no_description(arguments, names, tmp_path):
    model = official(**arguments)
    state_dict = model.state_dict()
    torch.save(to_reference(state_dict) if names == "official names" else state_dict, tmp_path / "model.pth")
    assert_equal(hub.load(tmp_path / "model.pth"), model)


@pytest.mark.parametrize("shape", [None, (), (7, 512)])
@pytest.mark.parametrize("names", ["official names", "our names"])
def test_a_head_that_does_not_fit_is_refused(names, shape, tmp_path):
    whole = official(map="scaled_response").state_dict()
    whole = to_reference(whole) if names == "official names" else whole
    for key in [
        key for key in whole if key.startswith("output_per.1") or key.endswith(("_conv.weight", "fc.bias"))
    ]:
        weights = {other: value for other, value in whole.items() if other != key}
        if shape is not None:
            weights[key] = torch.zeros(shape)
        torch.save(weights, tmp_path / "model.pth")
        with pytest.raises(hub.CheckpointError, match=r"model\.pth"):
            hub.load(tmp_path / "model.pth")


def test_mechanism_is_guessed_with_a_warning_unless_one_says_it(checkpoint, caplog):
    with caplog.at_level(logging.WARNING, "abn.hub"):
        residual = hub.load(checkpoint, mechanism="residual")
        assert not caplog.records
        guessed = hub.load(checkpoint)
    assert residual.perception_branch.mechanism == residual.built_with["mechanism"] == "residual"
    assert guessed.perception_branch.mechanism == "multiplicative"
    (record,) = caplog.records
    assert (
        "checkpoint-best.pt does not tell its attention mechanism, nor does an args.json"
        in record.getMessage()
    )
    with pytest.raises(ValueError, match="mechanism is 'additive', expected one of"):
        hub.load(checkpoint, mechanism="additive")


@pytest.mark.parametrize("residual", [True, False])
def test_mechanism_is_read_from_what_the_official_trainer_wrote_beside_the_checkpoint(
    residual, checkpoint, caplog
):
    options = {"model": "mtabn_v1_resnet18", "residual_attention": residual}
    checkpoint.with_name("args.json").write_text(json.dumps(options))
    mechanism = hub.load(checkpoint).perception_branch.mechanism
    assert mechanism == ("residual" if residual else "multiplicative")
    assert not caplog.records


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_other_files_of_that_name_tell_nothing(text, checkpoint, caplog):
    checkpoint.with_name("args.json").write_text(text)
    assert hub.load(checkpoint).perception_branch.mechanism == "multiplicative"
    assert "does not tell its attention mechanism" in caplog.text


def test_saved_network_tells_its_mechanism(checkpoint, tmp_path, caplog):
    hub.load(checkpoint, mechanism="residual").save_pretrained(tmp_path / "mine")
    assert hub.load(tmp_path / "mine").perception_branch.mechanism == "residual"
    hub.convert(checkpoint, tmp_path / "ours.safetensors", mechanism="residual")
    assert hub.load(tmp_path / "ours.safetensors").perception_branch.mechanism == "residual"
    assert not caplog.records


def test_another_number_of_tasks_renews_what_is_as_wide_as_they_are(checkpoint, caplog):
    kept = hub.load(checkpoint).state_dict()
    with caplog.at_level(logging.WARNING, "abn.hub"):
        loaded = hub.load(checkpoint, tasks=5)
    renewed = {"attention_branch.task_conv.weight"}
    renewed |= {f"perception_branch.tail.fc.{name}" for name in ("weight", "bias")}
    assert {key for key, value in loaded.state_dict().items() if value.shape != kept[key].shape} == renewed
    assert "started anew for tasks=5: " in caplog.records[-1].getMessage()
    assert loaded(IMAGES).attention_map.shape == (2, 5, 4, 4)


@pytest.mark.parametrize(
    ("saved", "asked"),
    [
        ({"tasks": 6}, {"tasks": 2, "num_classes": 3}),
        ({"tasks": 2, "num_classes": 3}, {"tasks": 3, "num_classes": 2}),
    ],
)
def test_as_many_scores_of_another_meaning_start_anew(saved, asked, tmp_path):
    model = wrap_backbone("timm/test_resnet", input_size=64, **saved)
    model.classes = tuple(f"task {number}" for number in range(saved["tasks"]))
    model.save_pretrained(tmp_path)
    loaded = hub.load(tmp_path, **asked)
    assert loaded(IMAGES).perception_logits.shape == (2, asked["num_classes"], asked["tasks"])
    for key in ("attention_branch.response_conv.weight", "perception_branch.tail.fc.weight"):
        assert not torch.equal(loaded.state_dict()[key], model.state_dict()[key])
    key = "feature_extractor.layer1.0.conv1.weight"
    assert torch.equal(loaded.state_dict()[key], model.state_dict()[key])
    assert loaded.classes is None


def test_tasks_keep_their_names_with_another_number_of_classes_each(tmp_path):
    model = wrap_backbone("timm/test_resnet", input_size=64, tasks=2)
    model.classes = ("hat", "tie")
    model.save_pretrained(tmp_path)
    assert hub.load(tmp_path, num_classes=3).classes == ("hat", "tie")


def test_a_width_of_one_response_per_class_follows_their_number(tmp_path):
    model = abn_resnet18(num_classes=1, response_channels=1, map="convolution")
    torch.save(to_reference(model.state_dict()), tmp_path / "model.pth")
    assert hub.load(tmp_path / "model.pth").attention_branch.response_conv.out_channels == 1
    assert hub.load(tmp_path / "model.pth", num_classes=7).attention_branch.response_conv.out_channels == 7


@pytest.mark.parametrize("width", [None, 4])
def test_width_is_saved_where_it_is_not_the_number_of_scores(width, tmp_path):
    model = wrap_backbone("timm/test_resnet", input_size=64, num_classes=1, response_channels=width)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["response_channels"] == (width or 16)
    hub.load(tmp_path)


def test_state_dict_of_another_width_needs_no_description(tmp_path):
    model = abn_resnet18(num_classes=10, response_channels=4).eval()
    torch.save(model.state_dict(), tmp_path / "model.pth")
    assert_equal(hub.load(tmp_path / "model.pth"), model)
    model.save_pretrained(tmp_path / "mine")
    with pytest.raises(ValueError, match=r"'response_channels': 4, .* expected .*'response_channels': 10"):
        hub.convert(tmp_path / "mine", tmp_path / "theirs.pth")


def test_state_dict_of_several_tasks_does_not_tell_how_many(tmp_path):
    torch.save(abn_resnet18(tasks=3).state_dict(), tmp_path / "model.pth")
    with pytest.raises(hub.CheckpointError, match=r"of several tasks, but not how many: .* save_pretrained"):
        hub.load(tmp_path / "model.pth")


def test_leftover_heads_are_named(checkpoint):
    content = torch.load(checkpoint)
    content["model_state_dict"]["module.output_per.0.extra"] = torch.zeros(1)
    torch.save(content, checkpoint)
    with pytest.raises(hub.CheckpointError, match=r"not part of it: feature_extractor\.output_per\.0\.extra"):
        hub.load(checkpoint)


def test_tasks_are_not_asked_of_a_network_of_one(tmp_path):
    wrap_backbone("timm/test_resnet", input_size=64).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"tasks is 5, but .* is a network of one task"):
        hub.load(tmp_path, tasks=5)


def test_networks_of_the_forty_attributes_know_their_names_and_images(tmp_path):
    torch.save(to_reference(official(tasks=40).state_dict()), tmp_path / "celeba.pt")
    model = hub.load(tmp_path / "celeba.pt")
    assert len(model.classes) == 40
    assert (model.classes[0], model.classes[31], model.classes[39]) == (
        "5_o_Clock_Shadow",
        "Smiling",
        "Young",
    )
    image = model.preprocessing(Image.new("RGB", (178, 218), (255, 0, 51)))
    assert image.shape == (3, 224, 224)
    assert image.amax(dim=(1, 2)).tolist() == pytest.approx([1, 0, 0.2])


def test_published_weights_are_those_of_forty_tasks(checkpoint, tmp_path, monkeypatch):
    entry, tagged = (entry for entry in hub.available() if entry.tasks is not None)
    assert tagged.page.endswith("/1U3edI1ml88akuikKFmz4cYGSR5MOdtmt")
    assert (entry.name, entry.model, entry.tasks) == ("abn_multitask_resnet101_celeba", "abn_resnet101", 40)
    assert entry.page.endswith("/18oy-0S4EYmp3ySVi30zW8lmoZsMPXYxT")
    for tasks in (None, 3):  # of the right depth, but of one task, or of too few
        arguments = {"map": "convolution"} if tasks is None else {"tasks": tasks, "map": "response"}
        torch.save(to_reference(abn_resnet101(**arguments).state_dict()), tmp_path / "other.pt")
        with pytest.raises(hub.CheckpointError, match="expected those of abn_resnet101 with 40 tasks"):
            hub.sources.check_published(entry, tmp_path / "other.pt")


def test_mechanism_that_the_official_code_lacks_is_not_converted(tmp_path):
    official(mechanism="dimming").save_pretrained(tmp_path / "mine")
    with pytest.raises(ValueError, match=r"has: it is built with {'mechanism': 'dimming'}"):
        hub.convert(tmp_path / "mine", tmp_path / "theirs.pt")
    assert not (tmp_path / "args.json").exists()


@pytest.mark.parametrize("arguments", [{}, {"map": "scaled_response", "num_classes": 2}])
@pytest.mark.parametrize("mechanism", ["residual", "multiplicative"])
def test_conversion_goes_both_ways(arguments, mechanism, tmp_path, caplog):
    model = official(**arguments, mechanism=mechanism)
    model.save_pretrained(tmp_path / "mine")
    hub.convert(tmp_path / "mine", tmp_path / "theirs.pt")
    options = json.loads((tmp_path / "args.json").read_text())  # which the official trainer reads to resume
    version = 2 if arguments else 1
    assert options["model"] == f"mtabn_v{version}_resnet18"
    assert options["residual_attention"] is (mechanism == "residual")
    assert (options["lr"], options["lr_steps"], options["epochs"]) == (0.01, [4, 8], 10)
    content = torch.load(tmp_path / "theirs.pt")
    weights = {f"module.{key}": value for key, value in to_reference(model.state_dict()).items()}
    assert content["model_state_dict"].keys() == weights.keys()
    assert all(torch.equal(content["model_state_dict"][key], value) for key, value in weights.items())
    assert_equal(hub.load(tmp_path / "theirs.pt"), model)
    assert not caplog.records


def test_options_beside_a_converted_checkpoint_stay_and_another_mechanism_is_told(tmp_path, caplog):
    official(mechanism="residual").save_pretrained(tmp_path / "mine")
    (tmp_path / "args.json").write_text('{"residual_attention": false}')
    hub.convert(tmp_path / "mine", tmp_path / "theirs.pt")
    assert (tmp_path / "args.json").read_text() == '{"residual_attention": false}'
    assert "was there already, and says of the residual mechanism False, expected True" in caplog.text


def test_converted_checkpoint_is_one_that_the_official_trainer_resumes_from(tmp_path):
    model = official()
    model.save_pretrained(tmp_path / "mine")
    hub.convert(tmp_path / "mine", tmp_path / "theirs.pt")
    content = torch.load(tmp_path / "theirs.pt")
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    parameters = [
        nn.Parameter(value) for key, value in content["model_state_dict"].items() if not key.endswith(buffers)
    ]  # one layer per task, of which we have one
    optimizer = torch.optim.SGD(parameters, lr=1.0, weight_decay=1.0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[1], gamma=0.5)
    optimizer.load_state_dict(content["optimizer_state_dict"])
    schedule.load_state_dict(content["scheduler_state_dict"])
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.01, 0.9, 1e-4)
    assert (list(schedule.milestones), schedule.gamma) == ([1], 0.5)  # of that trainer's own options
    assert (content["epoch"], content["iteration"], content["best_score"]) == (0, 0, 0.0)


def test_default_maps_are_not_converted_to_the_official_code(tmp_path):
    abn_resnet18(tasks=3).save_pretrained(tmp_path / "mine")
    with pytest.raises(ValueError, match="holds no network that the official code has"):
        hub.convert(tmp_path / "mine", tmp_path / "theirs.pt")


def test_families_of_one_task_say_how_to_build_several():
    with pytest.raises(TypeError, match=r"tasks is 3, expected none.*\n?.*wrap_backbone"):
        abn_cifar_resnet(8, tasks=3)
