"""Measures logits with a map: the time of all contenders in turn, and the arithmetic of each."""

import copy
import importlib.util
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from experiments.common.timing import duration, in_turn
from experiments.performance.contenders import METHODS, MODELS, SCORE_CAM, Network, torchcam
from experiments.performance.forms import FORMS, METHOD_FORMS
from experiments.performance.measure import LEAST_ROUNDS, flops, nested

SIZE = 224


def timed(network: Network, batch: int, spent: float, device: str) -> dict[str, dict[str, list[float]]]:
    """Times each contender in each of its forms, in seconds. Returns nothing if memory is too small."""
    try:
        return _timed(network, batch, spent, device)
    except torch.OutOfMemoryError:
        return {}
    finally:
        torch.cuda.empty_cache()


def _timed(network: Network, batch: int, spent: float, device: str) -> dict[str, dict[str, list[float]]]:
    torch.compiler.reset()
    torch._dynamo.config.recompile_limit = 64  # networks and parts share code, which is compiled for each
    backbone, images = _given(network, batch, device)
    calls = {}
    for name, form in FORMS.items():
        for row, build in MODELS.items():
            model, prepared = form(build(backbone).eval(), images, network.layer)
            calls[row, name] = inference(model, prepared)
    for row, method in available(METHODS).items():
        for name in forms_of(row):
            model, prepared = METHOD_FORMS[name](copy.deepcopy(backbone), images, network.layer)
            calls[row, name] = _call(method(model, network.layer), prepared)
    return nested(in_turn(calls, rounds=LEAST_ROUNDS, seconds=spent, device=device))


def score_cam(network: Network, device: str) -> dict[str, dict[str, list[float]]]:
    """Times Score-CAM once, on a single image: it takes a pass for every channel of the layer."""
    backbone, images = _given(network, 1, device)
    plain = inference(copy.deepcopy(backbone), images)
    seconds = [duration(plain, device) for _ in range(20)]
    times = {("plain", "eager"): [statistics.median(seconds[5:])]}  # the first calls allocate memory
    for row, method in available({SCORE_CAM: torchcam("ScoreCAM")}).items():
        times[row, "eager"] = [duration(_call(method(backbone, network.layer), images), device)]
    return nested(times)


def arithmetic(network: Network) -> dict[str, dict[str, int]]:
    """Counts the floating-point operations for one image, and the parameters."""
    backbone, images = _given(network, 1, "cpu")
    models = {row: build(backbone).eval() for row, build in MODELS.items()}
    calls = {row: inference(model, images) for row, model in models.items()}
    for row, method in available(METHODS).items():
        calls[row] = _call(method(copy.deepcopy(backbone), network.layer), images)
    return {
        row: {"flops": flops(call), "parameters": _parameters(models.get(row, backbone))}
        for row, call in calls.items()
    }


def forms_of(row: str) -> list[str]:
    """Returns the forms in which a method is timed."""
    if row.startswith("pytorch-grad-cam"):
        return ["eager", "folded"]  # it converts to NumPy, which has no bfloat16
    # Compiling takes minutes, so one method does: the first, which asks for the least behind the layer.
    return [form for form in METHOD_FORMS if form != "compiled before" or row == next(iter(METHODS))]


def available(methods: dict[str, Any]) -> dict[str, Any]:
    """Returns the methods whose library is installed."""
    modules = {"torch-cam": "torchcam", "pytorch-grad-cam": "pytorch_grad_cam", "Captum": "captum"}
    return {row: m for row, m in methods.items() if importlib.util.find_spec(modules[row.split()[0]])}


def _given(network: Network, batch: int, device: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return network.build().to(device), torch.randn(batch, 3, SIZE, SIZE, device=device)


def inference(model: nn.Module, images: Tensor) -> Callable[[], object]:
    """Returns a call that runs a forward without gradients."""

    def run() -> object:
        with torch.inference_mode():
            return model(images)

    return run


def _call(explain: Callable[[Tensor], object], images: Tensor) -> Callable[[], object]:
    return lambda: explain(images)


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
