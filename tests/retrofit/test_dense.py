"""The dense stage: at every r-th pixel it returns what the backbone's own last stage returns."""

import itertools

import pytest
import torch
from architectures import ARCHITECTURES, build, image_size
from torch import fx, nn

from abn.retrofit.cut import cut
from abn.retrofit.dense import ShiftedCopies, Stitch, dense_copy
from abn.retrofit.dry_run import dry_run
from abn.retrofit.packing import keep_input

# Functions between their layers pool, so that no layer with a stride does it alone.
KEEPING_THEIR_STRIDE = ["torchvision/inception_v3", "torchvision/swin_t"]
FURTHER = [
    "torchvision/mobilenet_v2",
    "timm/tf_efficientnet_lite0",  # pads as TensorFlow does: another pixel of each four is the equal one
    "timm/dm_nfnet_f0",  # the same, beside a pool
    "timm/resnetv2_50x1_bit",
    "timm/res2net50_26w_4s",
    "timm/seresnet50",  # averages over the whole map
    "timm/maxvit_tiny_rw_224",  # attends within windows
    "timm/davit_tiny",  # pads by itself
    "timm/poolformer_s12",
]


def stages(name: str):
    """The backbone's part from its images to its features, its last stage, and the features' shape."""
    backbone = build(name).eval()
    size = 224 if name in ("timm/maxvit_tiny_rw_224", "timm/dm_nfnet_f0") else max(image_size(name), 128)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)  # some layers start at zero
    parts = cut(backbone, (3, size, size), None)
    keep_input(parts.stage, parts.features)
    return parts


@pytest.mark.parametrize(
    "name",
    [name for name in ARCHITECTURES if name not in KEEPING_THEIR_STRIDE]
    + [pytest.param(name, marks=pytest.mark.slow) for name in FURTHER],
)
@torch.no_grad()
def test_dense_stage_holds_the_last_feature_map_of_the_backbone(name):
    parts = stages(name)
    dense = dense_copy(parts.stage, parts.features)
    features = torch.randn(2, *parts.features)
    expected, output = parts.stage(features), dense(features)
    assert output.shape[-2:] == features.shape[-2:]
    rows, columns = (round(output.shape[i] / expected.shape[i]) for i in (2, 3))
    assert rows * columns > 1
    errors = []
    for i, j in itertools.product(range(rows), range(columns)):
        chosen = output[..., i::rows, j::columns]
        height, width = (min(chosen.shape[k], expected.shape[k]) for k in (2, 3))
        errors.append((chosen[..., :height, :width] - expected[..., :height, :width]).abs().max().item())
    assert min(errors) <= 1e-4 * expected.std()


@pytest.mark.parametrize("name", KEEPING_THEIR_STRIDE)
def test_stage_that_lowers_the_resolution_without_a_layer_is_not_made_dense(name):
    parts = stages(name)
    assert dense_copy(parts.stage, parts.features) is None


class Halving(nn.Module):
    """A stage of one layer with a stride of 2."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, features):
        return self.layer(features)


def dense_of(layer: nn.Module, size: int = 8) -> nn.Module:
    dense = dense_copy(fx.symbolic_trace(Halving(layer)), (1, size, size))
    assert dense is not None
    return dense


def test_convolution_equals_one_at_stride_1():
    layer = nn.Conv2d(1, 1, kernel_size=3, stride=2, padding=1)
    at_stride_1 = nn.Conv2d(1, 1, kernel_size=3, padding=1)
    at_stride_1.load_state_dict(layer.state_dict())
    images = torch.randn(2, 1, 8, 8)
    output, expected = dense_of(layer)(images), at_stride_1(images)
    # A shifted copy has lost the pixels that it was shifted by, so that its first output sees one less.
    torch.testing.assert_close(output[..., 2:, 2:], expected[..., 2:, 2:])
    torch.testing.assert_close(output[..., ::2, ::2], expected[..., ::2, ::2])


def test_two_strided_layers_equal_a_dilated_one():
    first, second = (nn.Conv2d(1, 1, kernel_size=3, stride=2, padding=1) for _ in range(2))
    dilated = nn.Conv2d(1, 1, kernel_size=3, padding=2, dilation=2)
    dilated.load_state_dict(second.state_dict())
    at_stride_1 = nn.Conv2d(1, 1, kernel_size=3, padding=1)
    at_stride_1.load_state_dict(first.state_dict())
    images = torch.randn(2, 1, 16, 16)
    output = dense_of(nn.Sequential(first, second), 16)(images)
    expected = dilated(at_stride_1(images))
    torch.testing.assert_close(output[..., 4:-3, 4:-3], expected[..., 4:-3, 4:-3])


def test_maximum_over_pairs_by_hand():
    row = torch.tensor([1.0, 5.0, 2.0, 0.0])
    images = row.expand(1, 1, 4, 4)
    output = dense_of(nn.MaxPool2d(2), 4)(images)
    assert output[0, 0, 0].tolist() == [5, 5, 2, 0]  # of pixels 0-1, 1-2, 2-3, and 3 with nothing behind it


@pytest.mark.parametrize("size", [7, 8, 9])
@pytest.mark.parametrize("padding", [0, 1])
def test_sizes_that_the_stride_does_not_divide_are_kept(size, padding):
    layer = nn.Conv2d(1, 1, kernel_size=3, stride=2, padding=padding)
    images = torch.randn(2, 1, size, size + 2)
    dense = dense_copy(fx.symbolic_trace(Halving(layer)), (1, size, size + 2))
    output, expected = dense(images), layer(images)
    offset = 1 - padding  # without padding, the first output is the middle of pixels 0 to 2
    chosen = output[..., offset::2, offset::2][..., : expected.shape[-2], : expected.shape[-1]]
    assert output.shape == images.shape
    assert torch.equal(chosen, expected)


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_function_that_lowers_the_resolution_too_is_not_overlooked(kernel):
    class PoolsToo(Halving):
        def forward(self, features):
            return nn.functional.max_pool2d(self.layer(features), 2)

    stage = fx.symbolic_trace(PoolsToo(nn.Conv2d(1, 1, kernel, stride=2, padding=kernel // 2)))
    assert dense_copy(stage, (1, 8, 8)) is None


def test_stitch_is_the_inverse_of_taking_apart():
    images = torch.randn(2, 3, 8, 12)
    copies = ShiftedCopies(nn.Identity(), (2, 3), (0, 0))(images)
    every_pixel = copies[..., ::2, ::3]  # as a layer with this stride would see them
    assert torch.equal(Stitch([(2, 3)])(every_pixel, images), images)


def test_stage_without_a_stride_is_a_copy_and_nothing_else():
    dense = dense_of(nn.Conv2d(1, 4, kernel_size=3, padding=1))
    assert not [module for module in dense.modules() if isinstance(module, (ShiftedCopies, Stitch))]


def test_modes_of_training_are_kept():
    stage = fx.symbolic_trace(Halving(nn.Sequential(nn.Conv2d(1, 2, 2, 2), nn.BatchNorm2d(2).eval())))
    dense = dense_copy(stage, (1, 8, 8))
    assert not dense.get_submodule("layer.1").training
    assert all(m.training for m in dense.modules() if isinstance(m, (ShiftedCopies, Stitch, nn.Conv2d)))


def test_batch_size_is_free():
    dense = dense_of(nn.Conv2d(1, 4, kernel_size=2, stride=2))
    assert dry_run(dense, (1, 8, 8)).shape[1:] == (4, 8, 8)
    assert dense(torch.randn(1, 1, 8, 8)).shape == (1, 4, 8, 8)
