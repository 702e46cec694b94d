"""The network of three modules: its outputs, a map given from outside, and the images it refuses."""

import copy
import gc
import pickle
from collections import Counter

import pytest
import torch
from torch import nn

from abn import ABN, ABNLoss, ABNOutput, AttentionBranch, PerceptionBranch, wrap_backbone
from abn.modules.inputs import check_images


def small_network() -> ABN:
    """Three modules built by hand, as one does for a backbone that cannot be cut."""
    tail = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    return ABN(
        nn.Conv2d(3, 8, kernel_size=3, stride=2, padding=1),
        AttentionBranch(in_channels=8, num_classes=5),
        PerceptionBranch(tail),
    )


@pytest.fixture
def images():
    return torch.randn(2, 3, 16, 20)


def test_output_is_a_tuple_with_names(images):
    output = small_network()(images)
    attention_logits, perception_logits, attention_map = output
    assert isinstance(output, ABNOutput)
    assert output.attention_logits is attention_logits
    assert output.perception_logits is perception_logits
    assert output.attention_map is attention_map
    assert attention_logits.shape == perception_logits.shape == (2, 5)
    assert attention_map.shape == (2, 1, 8, 10)


def test_given_map_takes_the_place_of_the_computed_one(images):
    model = small_network().eval()
    free = model(images)
    again = model(images, attention_map=free.attention_map)
    masked = model(images, attention_map=torch.zeros(1, 8, 10))
    assert torch.equal(again.perception_logits, free.perception_logits)
    assert torch.equal(
        masked.perception_logits, model.perception_branch.tail(model.feature_extractor(images))
    )
    assert not torch.equal(masked.perception_logits, free.perception_logits)
    assert torch.equal(masked.attention_map, free.attention_map)  # the computed one, whatever was given


def test_computed_map_can_be_trained_towards_the_given_one(images):
    model = small_network()
    edited = torch.rand(2, 1, 8, 10)
    nn.functional.mse_loss(model(images, attention_map=edited).attention_map, edited).backward()
    assert model.attention_branch.classifier.weight.grad.abs().sum() > 0
    assert model.feature_extractor.weight.grad.abs().sum() > 0


def test_gradient_reaches_a_given_map(images):
    attention_map = torch.rand(2, 1, 8, 10, requires_grad=True)
    small_network()(images, attention_map=attention_map).perception_logits.sum().backward()
    assert attention_map.grad.abs().sum() > 0


def test_map_of_the_wrong_batch_is_refused(images):
    with pytest.raises(ValueError, match=r"shape \(3, 1, 8, 10\), expected .* with B = 2 like the images"):
        small_network()(images, attention_map=torch.zeros(3, 1, 8, 10))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            torch.tensor(255, dtype=torch.uint8),
            r"attention_map is torch\.uint8, expected bool",
        ),
        (torch.tensor(255.0), "attention_map goes from 255 to 255, expected values from 0 to 1"),
        (torch.tensor(-0.5), "attention_map goes from -0.5 to -0.5"),
        (torch.tensor(torch.nan), "attention_map goes from nan to nan"),
    ],
)
def test_map_beyond_0_to_1_is_refused(images, value, message):
    with pytest.raises(ValueError, match=message):
        wrap_backbone("timm/test_resnet")(images, attention_map=value.expand(2, 1, 4, 4))


def test_map_may_be_a_mask_and_rounding_is_forgiven(images):
    model = wrap_backbone("timm/test_resnet").eval()
    mask = torch.rand(2, 1, 4, 4) > 0.5
    of_bool, of_float = (model(images, attention_map=m).perception_logits for m in (mask, mask.float()))
    assert torch.equal(of_bool, of_float)
    model(images, attention_map=mask.float() * 1.0000002)


def test_map_has_no_bounds_where_those_of_the_network_have_none(images):
    model = wrap_backbone("timm/test_resnet", map="log_sum").eval()
    assert model(images, attention_map=torch.full((1, 1, 4, 4), 3.0)).perception_logits.isfinite().all()


def test_integer_images_are_refused():
    with pytest.raises(TypeError, match=r"images are torch.uint8, expected floating point: scale"):
        small_network()(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))


@pytest.mark.parametrize("values", [[torch.nan], [torch.inf], [torch.inf, -torch.inf]])
def test_images_that_are_not_finite_are_refused_and_counted(images, values):
    images[1, 0, 3, : len(values)] = torch.tensor(values)
    with pytest.raises(ValueError, match="1 of 2 images hold NaN or infinite values"):
        small_network()(images)


def test_bright_images_in_half_precision_pass_though_their_sum_overflows():
    images = torch.full((1, 3, 256, 256), 10.0, dtype=torch.float16)
    check_images(images)
    assert images.sum().isinf()


def test_vmap_over_images():
    model = small_network().eval()
    images = torch.randn(3, 3, 16, 16)
    logits = torch.vmap(lambda image: model(image[None]).perception_logits)(images)
    torch.testing.assert_close(logits[:, 0], model(images).perception_logits)


def test_single_image_without_batch_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 16, 16\), expected \(B, C, H, W\)"):
        small_network()(torch.zeros(3, 16, 16))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (2, 64, 64, 3),
            r"images have shape \(2, 64, 64, 3\), expected \(B, 3, H, W\): move .*permute\(0, 3, 1, 2\)",
        ),
        ((2, 1, 64, 64), r"images have shape \(2, 1, 64, 64\), expected \(B, 3, H, W\)$"),
    ],
)
def test_images_of_other_channels_are_refused(shape, message):
    model = wrap_backbone("timm/test_resnet", num_classes=4)
    for call in (model, lambda images: model.class_map(images, 0)):
        with pytest.raises(ValueError, match=message):
            call(torch.zeros(shape))


def test_images_too_small_for_a_map_are_refused():
    with pytest.raises(ValueError, match=r"features have shape \(2, 8, 1, 1\).* larger images"):
        small_network()(torch.zeros(2, 3, 2, 2))


def test_no_tensor_stays_between_calls(images):
    def tensors() -> Counter:
        gc.collect()
        return Counter(tuple(o.shape) for o in gc.get_objects() if issubclass(type(o), torch.Tensor))

    model = small_network()
    state = {name for module in model.modules() for name in vars(module)}
    before = tensors()
    ABNLoss()(model(images), torch.tensor([0, 1]))
    assert tensors() == before
    assert {name for module in model.modules() for name in vars(module)} == state


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_compute_the_same(images, duplicate):
    model = small_network().eval()
    for ours, theirs in zip(model(images), duplicate(model)(images), strict=True):
        assert torch.equal(ours, theirs)


def test_bfloat16_autocast_and_half_precision_weights(images):
    model = small_network().eval()
    exact = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(images)
    half = copy.deepcopy(model).bfloat16()(images.bfloat16())
    for output in (mixed, half):
        assert output.attention_map.dtype == torch.bfloat16
        torch.testing.assert_close(output.attention_map.float(), exact.attention_map, atol=0.02, rtol=0)


def test_map_of_any_class_comes_from_one_call():
    model = wrap_backbone("timm/test_resnet", start="pretrained").eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        maps = model.class_map(images, torch.tensor([3, 7]))
        assert torch.equal(maps[1:], model.class_map(images[1:], 7))
        assert not torch.equal(maps, model.class_map(images, 7))
    assert maps.shape == (2, 1, 4, 4)
    assert set(maps.amax(dim=(1, 2, 3)).tolist()) <= {0, 1}  # 0 where nothing speaks for the class


@pytest.mark.parametrize(
    ("arguments", "classes", "message"),
    [
        ({}, 1000, "classes are 1000, expected one number from 0 to 999, or one for each of 2 images"),
        ({}, -1, "classes are -1"),
        ({"map": "convolution"}, 3, r"\('convolution'\) is not made of evidence for classes"),
        ({"tasks": 4}, 3, "is not made of evidence for classes"),
    ],
)
def test_map_of_a_class_that_there_is_not_is_refused(arguments, classes, message):
    model = wrap_backbone("timm/test_resnet", **arguments)
    with pytest.raises(ValueError, match=message):
        model.class_map(torch.randn(2, 3, 64, 64), classes)


@pytest.mark.parametrize("given", [[torch.zeros(3, 64, 64)], torch.zeros(2, 3, 64, 64).numpy()])
def test_images_that_are_no_tensor_are_refused(given):
    with pytest.raises(TypeError, match=r"images are a (list|ndarray), expected a tensor \(B, C, H, W\)"):
        wrap_backbone("timm/test_resnet")(given)


def test_map_that_is_no_tensor_or_without_pixels_is_refused(images):
    model = wrap_backbone("timm/test_resnet")
    with pytest.raises(TypeError, match=r"attention_map is a ndarray, expected a tensor"):
        model(images, attention_map=torch.ones(2, 1, 4, 4).numpy())
    with pytest.raises(ValueError, match=r"attention_map has shape \(2, 1, 0, 0\), expected"):
        model(images, attention_map=torch.ones(2, 1, 0, 0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_images_of_another_precision_are_told(images, dtype):
    model = wrap_backbone("timm/test_resnet", num_classes=4).eval()
    with pytest.raises(TypeError, match=rf"images are {dtype}, expected torch\.float32, as the weights are"):
        model(images.to(dtype))
    model.to(dtype)(images.to(dtype))
