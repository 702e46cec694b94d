"""The metrics of explanations: by hand, and against other libraries where they compute the same."""

import itertools

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional as F
from torchcam.methods import GradCAM
from torchcam.metrics import ClassificationMetric, DeletionInsertionMetric
from torchvision.transforms.v2.functional import gaussian_blur

from abn import ABN, ABNOutput, PerceptionBranch, metrics, wrap_backbone
from abn.metrics import box_masks


def peaks(*points: tuple[int, int], size: int = 8) -> torch.Tensor:
    """One map (1, 1, size, size) that is 1 at these (y, x) and 0 elsewhere."""
    maps = torch.zeros(1, 1, size, size)
    for y, x in points:
        maps[0, 0, y, x] = 1
    return maps


class Brightness(nn.Module):
    """Two classes: the sum of the image's pixels, and 0. Its probabilities are known by hand."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        total = images.sum(dim=(1, 2, 3))
        return torch.stack([total, torch.zeros_like(total)], dim=1)


BOX = torch.tensor([[2, 4, 6, 7]])  # x from 2 to 5, y from 4 to 6
BOX_MASK = box_masks(BOX, size=(8, 8))


# Masks


def test_masks_cover_the_boxes_pixels_and_end_before_the_second_corner():
    assert BOX_MASK.shape == (1, 8, 8)
    assert BOX_MASK[0].nonzero().tolist() == [[y, x] for y in (4, 5, 6) for x in (2, 3, 4, 5)]


def test_masks_join_several_boxes_and_may_be_empty():
    masks = box_masks([torch.tensor([[0, 0, 2, 1], [3, 0, 4, 1]]), torch.zeros(0, 4)], size=(1, 4))
    assert masks.int().tolist() == [[[1, 1, 0, 1]], [[0, 0, 0, 0]]]


# Pointing games


@pytest.mark.parametrize(
    ("points", "tolerance", "expected"),
    [
        ([(5, 3)], 0, 1.0),
        ([(5, 6)], 0, 0.0),  # just right of the box
        ([(5, 6)], 1, 1.0),
        ([(2, 0)], 2, 0.0),  # 2 above and 2 left of a corner: at a distance of 2.83
        ([(2, 0)], 3, 1.0),
        ([(5, 3), (0, 0)], 0, 0.5),  # a tie
    ],
)
def test_pointing_game_by_hand(points, tolerance, expected):
    assert metrics.pointing_game(peaks(*points), BOX_MASK, tolerance).item() == pytest.approx(expected)


def test_pointing_game_gives_a_flat_map_the_score_of_chance():
    assert metrics.pointing_game(torch.full((1, 8, 8), 0.3), BOX_MASK).item() == pytest.approx(12 / 64)


def test_energy_pointing_game_by_hand():
    maps = torch.ones(1, 8, 8)
    maps[BOX_MASK] = 3.0
    maps[0, 0, 0] = -100.0  # counts as 0
    assert metrics.energy_pointing_game(maps, BOX_MASK).item() == pytest.approx(36 / (36 + 51))
    assert metrics.energy_pointing_game(torch.zeros(1, 8, 8), BOX_MASK).item() == 0


def test_maps_are_enlarged_to_their_masks():
    mask = box_masks(torch.tensor([[8, 16, 16, 24]]), size=(32, 32))
    coarse = peaks((2, 1), size=4)  # its pixel covers the box
    assert metrics.pointing_game(coarse, mask).item() == 1
    enlarged = F.interpolate(coarse, size=(32, 32), mode="bilinear")
    expected = enlarged[0, 0][mask[0]].sum() / enlarged.sum()
    assert metrics.energy_pointing_game(coarse, mask).item() == pytest.approx(expected.item())


# What the network makes of it


def area_by_loop(model, image, attention_map, start, end, step):
    """The definition, one pixel at a time."""
    height, width = image.shape[-2:]
    order = sorted(range(height * width), key=lambda i: -attention_map.flatten()[i].item())
    label = model(image[None]).argmax().item()
    current, curve = start.clone(), []
    for i in range(0, len(order) + 1, step):
        for pixel in order[max(0, i - step) : i]:
            current[:, pixel // width, pixel % width] = end[:, pixel // width, pixel % width]
        curve.append(model(current[None]).softmax(1)[0, label].item())
    return sum((a + b) / 2 for a, b in itertools.pairwise(curve)) / (len(curve) - 1)


@pytest.mark.parametrize("step", [1, 12, None])
def test_deletion_and_insertion_equal_a_loop_over_pixels(step):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 12 * 12, 3)).eval()
    images, maps = torch.randn(3, 2, 12, 12), torch.rand(3, 1, 12, 12)
    deleted, inserted = (f(model, images, maps, step=step) for f in (metrics.deletion, metrics.insertion))
    blurred = gaussian_blur(images, [11, 11], [5.0, 5.0])
    for i, (image, attention_map) in enumerate(zip(images, maps, strict=True)):
        by_loop = area_by_loop(model, image, attention_map, image, torch.zeros_like(image), step or 12)
        assert deleted[i].item() == pytest.approx(by_loop, abs=1e-5)
        by_loop = area_by_loop(model, image, attention_map, blurred[i], image, step or 12)
        assert inserted[i].item() == pytest.approx(by_loop, abs=1e-5)


def test_a_last_step_of_fewer_pixels_counts_for_its_share():
    model, image = Brightness().eval(), torch.zeros(1, 1, 10, 12)
    image[0, 0, 0, 0] = 2.0
    area = metrics.deletion(model, image, image[:, 0], step=90)
    whole, empty = torch.tensor([2.0, 0.0]).sigmoid()  # from 90 of 120 pixels on it is empty
    torch.testing.assert_close(area[0], 0.75 * (whole + empty) / 2 + 0.25 * empty)


def test_deleting_what_matters_first_leaves_less_than_deleting_it_last():
    images = torch.rand(4, 3, 16, 16) ** 8 / 50  # few bright pixels, and logits that do not saturate
    bright = images.sum(1, keepdim=True)
    model = Brightness().eval()
    assert (metrics.deletion(model, images, bright) < metrics.deletion(model, images, -bright)).all()
    assert (metrics.insertion(model, images, bright) > metrics.insertion(model, images, -bright)).all()


def test_confidence_change_by_hand():
    images = torch.tensor([[3.0, -2.0]]).view(1, 1, 1, 2).repeat(2, 1, 1, 1)
    maps = torch.tensor([[0.0, 1.0], [7.0, 5.0]]).view(2, 1, 1, 2)  # shows the second pixel; the first
    whole, second, first = torch.tensor([1.0, -2.0, 3.0]).sigmoid()
    drop, increase = metrics.confidence_change(Brightness().eval(), images, maps)
    torch.testing.assert_close(drop, torch.stack([(whole - second) / whole, torch.tensor(0.0)]))
    assert increase.tolist() == [0, 1]
    assert first > whole


def test_confidence_of_nothing_is_not_lost():
    images = torch.full((1, 1, 1, 2), -200.0)  # so that the probability of the class is 0
    drop, increase = metrics.confidence_change(
        Brightness().eval(), images, torch.ones(1, 1, 2), torch.tensor([0])
    )
    assert (drop.item(), increase.item()) == (0, 1)


def test_what_torchcam_computes_too_is_equal():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    ).eval()
    images = torch.randn(6, 3, 16, 16)
    softmax = nn.Softmax(dim=-1)
    with GradCAM(model, "1") as extractor:
        confidence = ClassificationMetric(extractor, softmax)
        deletion = DeletionInsertionMetric(extractor, softmax, steps=16)
        insertion = DeletionInsertionMetric(
            extractor, softmax, steps=16, baseline=lambda images: gaussian_blur(images, [11, 11], [5.0, 5.0])
        )
        for theirs in (confidence, deletion, insertion):
            theirs.update(images)
        logits = model(images)
        maps = extractor(logits.argmax(1).tolist(), softmax(logits))[0]
    change = metrics.confidence_change(model, images, maps)
    assert change.drop.mean().item() == pytest.approx(confidence.summary()["avg_drop"], abs=1e-5)
    assert change.increase.mean().item() == pytest.approx(confidence.summary()["conf_increase"])
    deleted = metrics.deletion(model, images, maps).mean().item()
    assert deleted == pytest.approx(deletion.summary()["deletion_auc"], abs=1e-5)
    inserted = metrics.insertion(model, images, maps).mean().item()
    assert inserted == pytest.approx(insertion.summary()["insertion_auc"], abs=1e-5)


def test_of_an_abn_the_perception_branch_counts():
    torch.manual_seed(0)
    model = wrap_backbone("timm/test_resnet", num_classes=4).eval()
    images = torch.randn(2, 3, 64, 64)
    maps = model(images).attention_map.detach()
    perception = nn.Module()
    perception.forward = lambda images: model(images).perception_logits
    perception.eval()
    assert torch.equal(
        metrics.deletion(model, images, maps, step=1024),
        metrics.deletion(perception, images, maps, step=1024),
    )


def test_the_class_to_explain_may_be_given():
    model, images = Brightness().eval(), torch.rand(2, 1, 12, 12)
    first, second = (metrics.deletion(model, images, images, torch.full((2,), label)) for label in (0, 1))
    torch.testing.assert_close(first + second, torch.ones(2))  # two probabilities that add up to 1
    assert torch.equal(first, metrics.deletion(model, images, images))  # the brighter class is predicted


# The grid pointing game


def cells_of(grids: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """The maps of a perfect explanation of images that are filled with the number of their class."""
    return (grids[:, :1] == classes.view(-1, 1, 1, 1)).float()


@pytest.mark.parametrize(("side", "channels"), [(2, 1), (3, 3)])
def test_grid_pointing_game_by_hand(side, channels):
    classes = torch.arange(side**2).expand(3, -1)
    images = classes.view(3, side**2, 1, 1, 1).expand(-1, -1, channels, 8, 6).float()
    assert torch.equal(metrics.grid_pointing_game(cells_of, images, classes), torch.ones(3, side**2))

    def left_half(grids, classes):  # of every cell, and less than nothing elsewhere
        halves = torch.tensor([1.0, 1, 1, -5, -5, -5]).repeat(side)
        return cells_of(grids, classes) * halves + 0.5 * (halves > 0)

    shares = metrics.grid_pointing_game(left_half, images, classes)
    assert shares.flatten().tolist() == pytest.approx([1.5 / (1.5 + 0.5 * (side**2 - 1))] * 3 * side**2)


def test_a_map_that_ignores_the_class_gets_the_share_of_chance_in_the_grid():
    images, classes = torch.rand(5, 4, 3, 8, 8), torch.arange(4).expand(5, -1)
    maps = torch.rand(1, 4, 4)
    shares = metrics.grid_pointing_game(lambda grids, _: maps.expand(len(grids), -1, -1), images, classes)
    assert shares.mean(dim=1).tolist() == pytest.approx([0.25] * 5)


def test_small_maps_are_clamped_and_then_enlarged_to_the_grid():
    maps = torch.tensor([[[3.0, -1.0], [0.0, 1.0]]]).repeat(4, 1, 1)
    images, classes = torch.rand(1, 4, 3, 4, 4), torch.arange(4)[None]
    enlarged = F.interpolate(maps[:1, None].clamp(min=0), size=(8, 8), mode="bilinear")[0, 0]
    cells = [enlarged[:4, :4], enlarged[:4, 4:], enlarged[4:, :4], enlarged[4:, 4:]]
    expected = [(cell.sum() / enlarged.sum()).item() for cell in cells]
    (shares,) = metrics.grid_pointing_game(lambda *_: maps, images, classes)
    assert shares.tolist() == pytest.approx(expected)


def test_grids_are_of_different_classes_that_the_network_is_sure_of():
    labels = torch.arange(6).repeat(5)
    logits = 4.0 * F.one_hot(labels, 6)
    logits[::3] = 0.0  # unsure
    chosen = metrics.choose_grids(logits, labels, count=40)
    assert chosen.shape == (40, 4)
    assert (chosen % 3 != 0).all()
    assert all(len(set(classes)) == 4 for classes in labels[chosen].tolist())
    assert torch.equal(chosen, metrics.choose_grids(logits, labels, count=40))
    assert not torch.equal(chosen, metrics.choose_grids(logits, labels, count=40, seed=1))


def test_the_grid_pointing_game_plays_with_an_abn():
    model = wrap_backbone("timm/test_resnet", num_classes=4).eval()
    images, classes = torch.randn(2, 4, 3, 32, 32), torch.arange(4).expand(2, -1)
    (first, *_) = metrics.grid_pointing_game(model.class_map, images, classes)
    grid = torch.cat([torch.cat([*images[0, :2]], dim=2), torch.cat([*images[0, 2:]], dim=2)], dim=1)
    mask = box_masks(torch.tensor([[32, 0, 64, 32]]), size=(64, 64))
    expected = metrics.energy_pointing_game(model.class_map(grid[None], 1), mask)
    torch.testing.assert_close(first[1:2], expected)
    assert not first.requires_grad


# What the network's own map does for it


@pytest.fixture
def finder():
    """Says in which half of the features there is more, once the map has weighted them."""

    class Halves(nn.Module):
        def forward(self, features):
            return 9 * features.mean(dim=(1, 2)).unflatten(1, (2, -1)).mean(dim=2)

    class GivenMap(nn.Module):
        def forward(self, features):
            return features.new_zeros(len(features), 2), features[:, 1:] / features[:, 1:].amax()

    return ABN(nn.Identity(), GivenMap(), PerceptionBranch(Halves(), "multiplicative")).eval()


def test_map_effect_by_hand(finder):
    image = torch.tensor([[1.0, 1, 1, 1], [0, 0, 2, 2]]).view(1, 2, 1, 4).expand(-1, -1, 4, -1)
    images = torch.cat([image, image.flip(3)])  # the map lets the right half through, and the left one
    labels = torch.tensor([1, 0])
    another = metrics.map_effect(finder, images, labels)
    assert another.correct.tolist() == [1, 1]
    assert another.correct_replaced.tolist() == [0, 0]
    right, right_through_the_left = torch.tensor([9 * 3 / 2, -9 / 2]).sigmoid()
    torch.testing.assert_close(another.change, (right - right_through_the_left).expand(2))
    assert metrics.map_effect(finder, images, labels, finder(images).attention_map).change.tolist() == [0, 0]


@pytest.mark.parametrize("mechanism", ["dimming", "multiplicative"])
def test_a_map_of_ones_and_of_means_replace_the_networks_own(mechanism):
    torch.manual_seed(0)
    model = wrap_backbone("timm/test_resnet", num_classes=4, mechanism=mechanism).eval()
    images, labels = torch.randn(3, 3, 64, 64), torch.tensor([0, 1, 2])
    maps = model(images).attention_map
    for replacement, given in (("ones", torch.ones_like(maps)), ("mean", maps.mean((2, 3), keepdim=True))):
        by_name = metrics.map_effect(model, images, labels, replacement)
        by_hand = metrics.map_effect(model, images, labels, given.expand_as(maps))
        assert all(torch.equal(one, other) for one, other in zip(by_name, by_hand, strict=True))
        assert by_name.change.min() > 0


# Shape and agreement


def test_entropy_by_hand():
    maps = torch.stack(
        [torch.full((1, 8, 8), 0.2), peaks((1, 1))[0], peaks((1, 1), (5, 5), (3, 3), (2, 2))[0]]
    )
    assert metrics.entropy(maps).tolist() == pytest.approx([1, 0, 2 / 6])  # log 4 / log 64


def test_iou_by_hand():
    one, other = torch.tensor([[0.0, 5, 5, 10]]), torch.tensor([[0.0, 0.1, 0.5, 1]])
    assert metrics.iou(one[None], other[None]).item() == pytest.approx(2 / 3)  # from 0.39 of the range on
    assert metrics.iou(one[None], other[None], threshold=0.9).item() == 1
    assert metrics.iou(torch.ones(1, 4, 4), torch.ones(1, 4, 4)).item() == 0  # flat maps agree on nothing


def test_rank_correlation_equals_that_of_scipy_also_with_ties():
    torch.manual_seed(0)
    one, other = torch.rand(5, 1, 6, 7), torch.rand(5, 1, 6, 7).mul(4).round()
    expected = [spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(one, other, strict=True)]
    assert metrics.rank_correlation(one, other).tolist() == pytest.approx(expected, abs=1e-5)
    assert metrics.rank_correlation(one, torch.ones_like(one)).tolist() == [0] * 5


# What holds for all


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_maps_of_half_precision_are_computed_in_float32(dtype):
    maps = torch.rand(2, 1, 16, 16).to(dtype)
    masks = box_masks(torch.tensor([[0, 0, 8, 8], [4, 4, 9, 9]]), size=(64, 64))
    images = torch.rand(2, 3, 16, 16)
    for value in (
        metrics.energy_pointing_game(maps, masks),
        metrics.entropy(maps),
        metrics.rank_correlation(maps, maps),
        metrics.deletion(Brightness().eval(), images, maps),
    ):
        assert value.dtype == torch.float32
    full = metrics.energy_pointing_game(maps.float(), masks)
    assert torch.equal(metrics.energy_pointing_game(maps, masks), full)


MAPS, MASKS, IMAGES = torch.rand(2, 1, 4, 4), torch.ones(2, 8, 8, dtype=torch.bool), torch.rand(2, 1, 12, 12)
LABELS, LOGITS = torch.arange(5), 9.0 * torch.eye(5)
GRIDS, CLASSES = torch.rand(2, 4, 3, 8, 8), torch.arange(4).expand(2, -1)


def effect(images: int = 2, labels: int = 2, train: bool = False, replacement: str = "another", **arguments):
    model = wrap_backbone("timm/test_resnet", input_size=64, **arguments).train(train)
    return metrics.map_effect(
        model, torch.randn(images, 3, 64, 64), torch.zeros(labels, dtype=torch.long), replacement
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: box_masks(torch.tensor([[0, 0.5, 0.25, 1]]), (8, 6)), r"expected pixels.*\[6, 8\] \* 2"),
        (lambda: box_masks(torch.ones(2, 3), (8, 8)), r"boxes \(3,\), expected \(4,\) or \(N, 4\)"),
        (lambda: metrics.pointing_game(MAPS, MASKS, -1), "tolerance is -1"),
        (lambda: metrics.pointing_game(MAPS[:1], MASKS), "maps for 1 images"),
        (lambda: metrics.entropy(torch.rand(2, 3, 4, 4)), r"shape \(2, 3, 4, 4\), expected \(B, 1, h, w\)"),
        (lambda: metrics.entropy(MAPS * float("nan")), "holds NaN"),
        (lambda: metrics.entropy(MAPS - 1), "negative"),
        (lambda: metrics.entropy(MAPS * 0), "0 everywhere"),
        (lambda: metrics.iou(MAPS, MAPS[..., 1:]), "expected the same"),
        (lambda: metrics.iou(MAPS, MAPS, threshold=0), "threshold is 0"),
        (lambda: metrics.deletion(Brightness(), IMAGES, MAPS), "training mode"),
        (lambda: metrics.deletion(Brightness().eval(), IMAGES, MAPS, step=0), "step is 0"),
        (lambda: metrics.insertion(Brightness().eval(), IMAGES[:1], MAPS), "maps for 2 images"),
        (lambda: metrics.choose_grids(LOGITS, LABELS[:4]), r"logits \(5, 5\) and labels \(4,\)"),
        (lambda: metrics.choose_grids(LOGITS, LABELS, side=1), "side is 1 and count 100"),
        (lambda: metrics.choose_grids(LOGITS, LABELS, side=3), "images of 9 classes, but only 5"),
        (lambda: metrics.choose_grids(-LOGITS, LABELS), "images of 4 classes, but only 0"),
        (lambda: metrics.grid_pointing_game(cells_of, GRIDS[:, :3], CLASSES[:, :3]), r"images \(2, 3, 3, 8"),
        (lambda: metrics.grid_pointing_game(cells_of, GRIDS, CLASSES[:1]), r"classes \(1, 4\)"),
        (lambda: metrics.grid_pointing_game(cells_of, GRIDS, CLASSES // 2), "a class is twice in a grid"),
        (lambda: metrics.grid_pointing_game(lambda *_: MAPS, GRIDS, CLASSES), "maps for 2 images"),
        (lambda: metrics.choose_grids(LOGITS, LABELS + 1), "a label is not one of the 5 classes"),
        (lambda: effect(replacement="zeros"), "replacement is 'zeros', expected one of 'ones', 'mean'"),
        (lambda: effect(replacement=None), "replacement is None"),
        (lambda: effect(replacement=MAPS * float("nan")), "holds NaN"),
        (lambda: effect(num_classes=1), r"scores \(2, 1\)"),
        (lambda: effect(train=True), "training mode"),
        (lambda: effect(images=1, labels=1), "got a single image"),
        (lambda: effect(labels=3), r"labels \(3,\)"),
        (lambda: effect(tasks=3), "3 maps"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_output_of_other_logits_is_not_confused_with_an_abn():
    output = ABNOutput(torch.zeros(2, 3), torch.ones(2, 3), MAPS)

    def model(images: torch.Tensor) -> ABNOutput:
        return output

    area = metrics.deletion(model, IMAGES, MAPS)
    assert area.tolist() == pytest.approx([1 / 3] * 2)


# Networks of several tasks


@pytest.mark.parametrize(
    "arguments", [{"tasks": 3}, {"tasks": 1}, {"tasks": 3, "num_classes": 2}, {"num_classes": 1}]
)
@pytest.mark.parametrize("metric", [metrics.deletion, metrics.insertion, metrics.confidence_change])
def test_scores_that_are_not_of_classes_are_refused(arguments, metric):
    model = wrap_backbone("timm/test_resnet", input_size=64, **arguments).eval()
    with pytest.raises(
        ValueError, match=r"expected the logits \(B, K\) of several classes: hand over a function"
    ):
        metric(model, torch.randn(2, 3, 64, 64), torch.rand(2, 4, 4))


def test_one_task_can_be_measured_as_no_and_yes():
    model = wrap_backbone("timm/test_resnet", input_size=64, tasks=3).eval()
    images, maps = torch.randn(2, 3, 64, 64), (1 - torch.eye(4)).expand(2, 4, 4)

    def probability(images):
        return model(images).perception_logits[:, 1].sigmoid()

    def no_and_yes(images):
        return F.pad(model(images).perception_logits[:, 1:2], (1, 0))

    shown = images * F.interpolate(maps[:, None], size=(64, 64), mode="bilinear")
    change = metrics.confidence_change(no_and_yes, images, maps, classes=torch.tensor([1, 1]))
    expected = (probability(images) - probability(shown)).clamp(min=0) / probability(images)
    torch.testing.assert_close(change.drop, expected)
    assert torch.equal(change.increase, (probability(shown) > probability(images)).float())


@pytest.mark.parametrize("classes", [torch.tensor([0]), torch.tensor([0.0, 1.0]), [0, 1]])
@pytest.mark.parametrize("metric", [metrics.deletion, metrics.insertion, metrics.confidence_change])
def test_classes_are_one_number_for_each_image(metric, classes):
    with pytest.raises(
        ValueError, match=r"classes are .*, expected a tensor of int64, one for each of 2 images"
    ):
        metric(nn.Flatten(), torch.rand(2, 3, 16, 16), torch.rand(2, 4, 4), classes)


@pytest.mark.parametrize("metric", [metrics.pointing_game, metrics.energy_pointing_game])
def test_masks_are_one_for_each_map_and_from_0_to_1(metric):
    with pytest.raises(ValueError, match=r"masks has shape \(1, 5, 8, 8\), expected .* \[:, task\]"):
        metric(peaks((5, 3)), BOX_MASK.expand(1, 5, 8, 8))
    with pytest.raises(
        ValueError, match=r"mask is torch\.uint8, expected bool, .* mask > 0, or .* mask / 255"
    ):
        metric(peaks((5, 3)), BOX_MASK.to(torch.uint8) * 255)
    with pytest.raises(ValueError, match=r"mask goes from 0 to 255, expected values from 0 to 1"):
        metric(peaks((5, 3)), BOX_MASK * 255.0)
    assert torch.equal(metric(peaks((5, 3)), BOX_MASK * 0.6), metric(peaks((5, 3)), BOX_MASK))
