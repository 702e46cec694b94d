"""Maps of several methods side by side."""

import sys

import pytest
import torch
from architectures import build
from PIL import Image

from abn import LogitsOnly, Preprocessing, wrap_backbone
from abn.visualize import compare, overlay
from abn.visualize.comparison import METHODS, cam_maps
from abn.visualize.layers import last_feature_map


@pytest.fixture
def model():
    model = wrap_backbone(build("torchvision/resnet18"), num_classes=6).eval()
    model.preprocessing = Preprocessing((64, 64), 64)
    return model


@pytest.fixture
def photographs():
    pixels = torch.randint(256, (2, 6, 8, 3), dtype=torch.uint8).numpy()
    return [Image.fromarray(each).resize((80, 60)) for each in pixels]


def test_each_photograph_has_a_row_and_each_method_a_column(model, photographs):
    picture = compare(model, photographs, ["gradcam", "abn"], panel_size=64)
    batch = torch.stack([model.preprocessing(image) for image in photographs])
    with torch.no_grad():
        output = model(batch)
    maps = [cam_maps(model, batch, "gradcam", output.perception_logits.argmax(dim=1)), output.attention_map]
    height = picture.height - 2 * 64 - 8  # of the titles
    for row, image in enumerate(photographs):
        view = model.preprocessing.view(image, longest=64)
        for column, of_method in enumerate(maps, start=1):
            left, top = column * 72, height + row * 72
            panel = picture.crop((left, top, left + 64, top + 64))
            assert panel.tobytes() == overlay(view, of_method[row]).tobytes()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("library", ["torchcam.methods", "pytorch_grad_cam"])
def test_both_libraries_make_maps_of_the_classes_asked_for(model, photographs, monkeypatch, method, library):
    other = {"torchcam.methods", "pytorch_grad_cam"} - {library}
    monkeypatch.setitem(sys.modules, other.pop(), None)
    batch = torch.stack([model.preprocessing(image) for image in photographs])
    maps = cam_maps(model, batch, method, torch.tensor([1, 4]))
    assert maps.shape[:2] == (2, 1)
    assert 0 <= maps.min() <= maps.max() <= 1
    one = cam_maps(model, batch[1:], method, torch.tensor([4]))
    assert torch.allclose(maps[1], one[0], atol=1e-3)


def test_evidence_for_a_class_is_compared(model, photographs):
    picture = compare(model, photographs[0], ["abn"], classes=3, panel_size=64)
    expected = overlay(
        model.preprocessing.view(photographs[0], longest=64),
        model.class_map(model.preprocessing(photographs[0])[None], 3)[0].detach(),
    )
    assert picture.crop((72, picture.height - 64, 136, picture.height)).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("torchvision/resnet18", "perception_branch.tail.layer4"),
        ("torchvision/mobilenet_v2", "perception_branch.tail.features"),
        ("timm/efficientnet_b0", "perception_branch.tail.bn2"),
    ],
)
def test_layer_is_the_last_feature_map(name, layer):
    model = wrap_backbone(build(name), num_classes=6).eval()
    found, _ = last_feature_map(model, torch.randn(1, 3, 128, 128))
    names = {module: each for each, module in model.named_modules()}
    assert names[found].startswith(layer)
    assert not any(module._forward_hooks for module in LogitsOnly(model).modules())


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("timm/test_vit", "perception_branch.tail.blocks.5.norm1"),  # behind it, only the class token counts
        ("timm/test_vit2", "perception_branch.tail.norm"),
    ],
)
@pytest.mark.parametrize("library", ["torchcam.methods", "pytorch_grad_cam"])
def test_tokens_are_compared_from_the_last_layer_that_the_logits_depend_on(
    name, layer, library, photographs, monkeypatch
):
    other = {"torchcam.methods", "pytorch_grad_cam"} - {library}
    monkeypatch.setitem(sys.modules, other.pop(), None)
    model = wrap_backbone(build(name), num_classes=6).eval()
    images = torch.randn(2, 3, 160, 160)
    found, to_map = last_feature_map(model, images[:1])
    assert found is model.get_submodule(layer)
    assert to_map(torch.randn(2, 101, 64)).shape == (2, 64, 10, 10)
    maps = cam_maps(model, images, "gradcam", torch.tensor([1, 2]))
    assert maps.shape[:2] == (2, 1)
    assert (maps.amax(dim=(2, 3)) > 0.9).all()
    model.preprocessing = Preprocessing((160, 160), 160)
    assert compare(model, photographs, ["abn", "gradcam"]).width == 2 * 232 + 224


@pytest.mark.parametrize("library", ["torchcam.methods", "pytorch_grad_cam"])
def test_frozen_network_is_compared_and_gradients_are_kept(model, photographs, monkeypatch, library):
    other = {"torchcam.methods", "pytorch_grad_cam"} - {library}
    monkeypatch.setitem(sys.modules, other.pop(), None)
    weight = next(model.parameters())
    weight.grad = torch.ones_like(weight)
    free = compare(model, photographs, ["gradcam"])
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert sum(parameter.grad is not None for parameter in model.parameters()) == 1
    assert compare(model.requires_grad_(False), photographs, ["gradcam"]).tobytes() == free.tobytes()


def test_half_precision_and_thin_images_are_compared(model, photographs):
    model.preprocessing = Preprocessing((40, 200), (40, 200))
    assert compare(model, photographs, ["abn", "gradcam"]).width == 2 * 232 + 224
    compare(model.bfloat16(), photographs, ["abn", "gradcam"])


def test_what_cannot_be_compared_is_refused(model, photographs, monkeypatch):
    with pytest.raises(ValueError, match=r"methods are \['gradcm'\], expected some of 'abn', 'gradcam'"):
        compare(model, photographs, ["gradcm"])
    with pytest.raises(ValueError, match="got 0 images"):
        compare(model, [])
    with pytest.raises(ValueError, match="classes are 9, expected one number from 0 to 5"):
        compare(model, photographs, classes=9)
    tasks = wrap_backbone(build("torchvision/resnet18"), tasks=2)
    tasks.preprocessing = model.preprocessing
    with pytest.raises(ValueError, match="expected one of classes, of one task"):
        compare(tasks, photographs)
    swin = wrap_backbone(build("timm/swin_tiny_patch4_window7_224"), num_classes=6).eval()
    with pytest.raises(ValueError, match="with its channels last"):
        compare(swin, photographs)
    for library in ("torchcam.methods", "pytorch_grad_cam"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match="pip install torchcam"):
        compare(model, photographs)
    assert compare(model, photographs, ["abn"]).width == 2 * 224 + 8
