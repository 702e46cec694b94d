"""Tools that expect one tensor of logits, on `LogitsOnly`: ABN's own map beside those that they compute."""

import copy
import math
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from architectures import FAMILIES, ONE_SIZE, build
from PIL import Image
from torch import nn

from abn import ABN, LogitsOnly, hub, metrics, wrap_backbone
from abn.modules.inputs import resize_maps


@pytest.fixture
def view() -> LogitsOnly:
    return LogitsOnly(wrap_backbone(build("timm/test_resnet"), num_classes=4).eval())


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64)


@pytest.mark.parametrize("name", FAMILIES)
def test_view_returns_the_logits_of_the_perception_branch(name):
    model = wrap_backbone(build(name), num_classes=4).eval()
    size = ONE_SIZE.get(name, 160)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(LogitsOnly(model)(images), model(images).perception_logits)


def test_view_shares_its_network(view):
    assert next(view.parameters()) is next(view.model.parameters())
    view.train()
    assert view.model.training
    assert not LogitsOnly(view.model.eval()).training


def grad_cam_by_hand(view: LogitsOnly, layer: nn.Module, images: torch.Tensor, target: int) -> torch.Tensor:
    """ReLU of the channels' sum, each weighted by the mean of its gradient (Selvaraju et al., ICCV 2017)."""
    activations = []
    handle = layer.register_forward_hook(lambda module, inputs, output: activations.append(output))
    logits = view(images)[:, target].sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(logits, activations[0])
    return (gradient.mean((2, 3), keepdim=True) * activations[0]).sum(1).relu().detach()


@pytest.fixture
def target(view, images) -> int:
    """A class for which Grad-CAM's map is not all zeros."""
    maps = [grad_cam_by_hand(view, view.model.perception_branch.tail.layer4, images, k) for k in range(4)]
    (target, *_) = [k for k, cam in enumerate(maps) if (cam.amax((1, 2)) > 0).all()]
    return target


def test_captum_explains_the_view(view, images, target):
    captum = pytest.importorskip("captum.attr")
    layer = view.model.perception_branch.tail.layer4
    theirs = captum.LayerGradCam(view, layer).attribute(images, target=target, relu_attributions=True)
    torch.testing.assert_close(theirs.squeeze(1), grad_cam_by_hand(view, layer, images, target))


def test_torch_cam_explains_the_view(view, images, target):
    methods = pytest.importorskip("torchcam.methods")
    layer = view.model.perception_branch.tail.layer4
    with methods.GradCAM(view, target_layer=layer) as extractor:
        (theirs,) = extractor([target] * len(images), view(images), normalized=False)
    torch.testing.assert_close(theirs, grad_cam_by_hand(view, layer, images, target))


NETWORKS = {
    "from a linear classifier": {"start": "pretrained"},
    "from a norm and a linear classifier": {"name": "timm/test_convnext", "start": "pretrained"},
    "new": {},
    "of several tasks": {"tasks": 3},
    "of several tasks with classes": {"tasks": 3, "num_classes": 4},
    "with the official map": {"map": "convolution"},
    "of several tasks with the official map": {"tasks": 3, "map": "scaled_response"},
}


def network(name: str = "timm/test_resnet", **arguments: object) -> ABN:
    return wrap_backbone(name, **arguments).eval()


@torch.no_grad()
@pytest.mark.parametrize("arguments", NETWORKS.values(), ids=NETWORKS)
def test_accelerate_keeps_the_weights_elsewhere_until_a_layer_is_called(arguments, images, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model = network(**arguments)
    expected = model(images)
    torch.testing.assert_close(accelerate.cpu_offload(copy.deepcopy(model), "cpu")(images), expected)
    torch.testing.assert_close(accelerate.disk_offload(model, str(tmp_path), "cpu")(images), expected)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["from a linear classifier", "new", "of several tasks"])
def test_low_rank_adapters_of_the_classifier_take_part_in_the_map(kind, images):
    peft = pytest.importorskip("peft")
    model = network(**NETWORKS[kind])
    before = model(images)
    target = "attention_branch.classifier" + ".layers.0" * ("linear" in kind)
    config = peft.LoraConfig(target_modules=[target], init_lora_weights=False)
    peft.inject_adapter_in_model(config, model)
    adapted = model(images)
    assert not torch.equal(adapted.attention_map, before.attention_map)
    model.get_submodule(target).merge()
    torch.testing.assert_close(adapted, model(images))
    if "tasks" not in kind:
        assert model.class_map(images, 1).shape == before.attention_map.shape


def blocks_of_the_documentation(heading: str, name: str = "tools.md") -> list[str]:
    """The Python under a heading of a page, less what takes long or cannot be fetched."""
    page = (Path(__file__).parents[1] / "docs" / name).read_text(encoding="utf-8")
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    shorter = {
        '"timm/resnet50", pretrained=True': '"timm/test_resnet"',
        "max_epochs=10": "max_epochs=1, enable_progress_bar=False, logger=False",
        "num_train_epochs=10": "num_train_epochs=1, disable_tqdm=True, report_to=[], use_cpu=True",
    }
    blocks = [part.split("```")[0] for part in section.split("```python\n")[1:]]
    for long, short in shorter.items():
        blocks = [block.replace(long, short) for block in blocks]
    return blocks


@pytest.mark.filterwarnings("ignore")
def test_other_trainers_train_as_the_documentation_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = [{"images": torch.randn(3, 64, 64), "labels": index % 4} for index in range(16)]
    batches = [(example["images"], example["labels"]) for example in examples]
    names = {"examples": examples}
    for block, library in zip(
        blocks_of_the_documentation("Lightning, Accelerate, transformers"),
        ("lightning", "accelerate", "transformers"),
        strict=True,
    ):
        assert library in block
        names["loader"] = torch.utils.data.DataLoader(batches, batch_size=8)
        key = "attention_branch.classifier.weight"
        torch.manual_seed(0)  # of the network that the first one builds
        before = names.get("model", network(num_classes=4)).state_dict()[key].clone()
        torch.manual_seed(0)
        exec(block, names)
        difference = hub.load(tmp_path / "mine").state_dict()[key] - before
        assert 0 < difference.abs().max() < 0.1
        shutil.rmtree(tmp_path / "mine")
    metrics_of_evaluation = names["trainer"].evaluate()
    assert metrics_of_evaluation["eval_loss"] > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_exported_networks_are_loaded_as_the_documentation_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, images = network(num_classes=4), torch.randn(2, 3, 64, 64)
    names = {"torch": torch, "model": model, "images": images}
    Image.new("RGB", (320, 240), "white").save("photo.jpg")
    for block in blocks_of_the_documentation("Compile and export", "running.md"):
        exec(block, names)
        if "perception_logits" in names:
            torch.testing.assert_close(
                names["attention_map"], model(images).attention_map, rtol=1e-4, atol=1e-4
            )
    with Image.open("map.png") as picture:
        assert picture.size == (64, 64)
        assert min(high for _, high in picture.getextrema()) > 200  # the map's maximum is 1


@pytest.fixture
def onnx_names(tmp_path, monkeypatch):
    """What the documentation's code of ONNX Runtime leaves behind, and the file of the network."""
    monkeypatch.chdir(tmp_path)
    names = {"model": network(num_classes=4), "images": torch.randn(2, 3, 64, 64)}
    for block in blocks_of_the_documentation("ONNX Runtime: prediction and map from one file"):
        exec(block, names)
    return names


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_onnx_has_the_map_in_floats_and_in_8_bits(onnx_names):
    _, logits, maps = onnx_names["model"](onnx_names["images"])
    torch.testing.assert_close(torch.from_numpy(onnx_names["maps"]), maps, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.from_numpy(onnx_names["logits"]), logits, rtol=1e-4, atol=1e-4)
    assert metrics.rank_correlation(torch.from_numpy(onnx_names["quantised_maps"]), maps).min() > 0.8


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_openvino_has_the_map(onnx_names):
    pytest.importorskip("openvino")
    (block,) = blocks_of_the_documentation("OpenVINO")
    exec(block, onnx_names)
    maps = onnx_names["model"](onnx_names["images"]).attention_map
    torch.testing.assert_close(torch.from_numpy(onnx_names["maps"]), maps, rtol=1e-4, atol=1e-4)


def test_captum_is_called_as_the_documentation_says():
    names = {"model": network(num_classes=4), "images": torch.randn(2, 3, 64, 64), "LogitsOnly": LogitsOnly}
    (block,) = (
        block
        for block in blocks_of_the_documentation("Captum, and tools that expect one tensor")
        if "captum" in block
    )
    exec(block, names)
    assert names["attributions"].abs().max() > 0


def test_figures_of_a_run_go_to_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/runs.db")
    (tmp_path / "runs/photos").mkdir(parents=True)
    (tmp_path / "runs/photos/log.csv").write_text("epoch,train_loss\n1,0.5\n2,0.25\n")
    (block,) = blocks_of_the_documentation("MLflow, Weights & Biases")
    exec(block, {})
    assert mlflow.search_runs(search_all_experiments=True)["metrics.train_loss"].tolist() == [0.25]


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_quantised_classifier_is_called(images):
    model = network("timm/test_convnext", start="pretrained", num_classes=64)  # as many classes as channels
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear})
    torch.testing.assert_close(quantised(images).attention_map, model(images).attention_map, rtol=0, atol=0.1)


@torch.no_grad()
def test_norm_with_an_adapter_around_it_is_still_one(images):
    peft = pytest.importorskip("peft")
    model = network("timm/test_convnext", start="pretrained")
    before = model(images)
    peft.inject_adapter_in_model(peft.LNTuningConfig(target_modules=["classifier.layers.0"]), model)
    torch.testing.assert_close(model(images), before, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_hook_that_only_looks_sees_one_call_with_the_logits(images):
    seen = []
    model = network("timm/test_resnet", start="pretrained")
    model.attention_branch.classifier.layers[0].register_forward_hook(lambda *call: seen.append(call[2]))
    assert torch.equal(model(images).attention_logits, *seen)


@pytest.fixture
def quantus():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import quantus  # takes long
    return quantus


def test_quantus_agrees_where_it_measures_the_same(quantus):
    torch.manual_seed(0)
    model = wrap_backbone("timm/test_resnet", in_chans=1, num_classes=4, input_size=(1, 64, 64)).eval()
    images = torch.rand(3, 1, 64, 64)
    images[..., 0, 0] = 0  # the least value of an image is what Quantus deletes with
    _, logits, maps = (value.detach() for value in model(images))
    maps, labels = resize_maps(maps, (64, 64)), logits.argmax(dim=1)
    masks = metrics.box_masks(torch.tensor([[8, 16, 40, 48]] * 3), size=(64, 64))
    given = {
        "model": LogitsOnly(model),
        "x_batch": images.numpy(),
        "y_batch": labels.numpy(),
        "a_batch": maps.numpy(),
    }
    on_masks = {**given, "s_batch": masks[:, None].numpy()}

    def of_quantus(metric: str, arguments: dict, **options: object) -> torch.Tensor:
        values = getattr(quantus, metric)(disable_warnings=True, **options)(**arguments)
        return torch.from_numpy(np.array(values, dtype=np.float32))

    pointing = of_quantus("PointingGame", on_masks)
    assert torch.equal(pointing, metrics.pointing_game(maps, masks))
    energy = of_quantus("AttributionLocalisation", on_masks)
    torch.testing.assert_close(energy, metrics.energy_pointing_game(maps, masks))
    complexity = of_quantus("Complexity", given)
    torch.testing.assert_close(complexity, metrics.entropy(maps) * math.log(64 * 64))

    pixels = 64  # at once
    curve = of_quantus(
        "PixelFlipping", {**given, "softmax": True}, features_in_step=pixels, perturb_baseline="black"
    )
    whole = logits.softmax(dim=1).amax(dim=1, keepdim=True)
    area = torch.trapezoid(torch.cat([whole, curve], dim=1), dx=pixels / 64**2)
    torch.testing.assert_close(area, metrics.deletion(model, images, maps, step=pixels))
