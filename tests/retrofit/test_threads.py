"""A server wraps and loads networks in some threads while others classify images."""

import math
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import timm
import torch
import torchvision
from torch import nn

import abn

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator("cpu").manual_seed(0), device="cpu")


def logits_of(model: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        output = model.eval()(IMAGES)
    return output.perception_logits if isinstance(output, abn.ABNOutput) else output


def test_networks_are_wrapped_and_loaded_in_threads_while_others_classify(tmp_path: Path) -> None:
    plain = torchvision.models.resnet18(num_classes=5)
    # torch.fx marks functions of this one, and replaces them while it is traced.
    swin = torchvision.models.swin_transformer.SwinTransformer([4, 4], 24, [1, 1], [1, 2], [7, 7])
    abn.wrap_backbone("timm/test_convnext", start="new", num_classes=5).save_pretrained(tmp_path)
    makers: list[Callable[[], nn.Module]] = [
        partial(abn.wrap_backbone, plain),
        partial(abn.wrap_backbone, swin),
        partial(abn.wrap_backbone, timm.create_model("test_efficientnet"), split="blocks.1"),
        partial(abn.hub.load, tmp_path),
    ]
    expected = [logits_of(make()) for make in makers]
    running = [plain, swin, abn.wrap_backbone(plain)]
    expected_of_running = [logits_of(model) for model in running]
    filters, attention = list(warnings.filters), torchvision.models.swin_transformer.shifted_window_attention
    root, call, read = math.sqrt, nn.Module.__call__, nn.Module.__getattr__
    made = threading.Event()

    def classify() -> int:
        calls = 0
        while not made.is_set() or not calls:
            for model, logits in zip(running, expected_of_running, strict=True):
                assert torch.equal(logits_of(model), logits)
                calls += 1
        return calls

    with ThreadPoolExecutor(max_workers=6) as pool:
        classifying = [pool.submit(classify) for _ in range(2)]
        try:
            making = [pool.submit(lambda make=make: logits_of(make())) for make in makers * 2]
            built = [pool.submit(abn.abn_cifar_wide_resnet, 10, 1) for _ in range(3)]  # of random weights
            results = [future.result() for future in making]
        finally:
            made.set()
        assert all(future.result() for future in classifying)
        assert all(isinstance(future.result(), abn.ABN) for future in built)

    for logits, first in zip(results, expected * 2, strict=True):
        assert torch.equal(logits, first)
    assert nn.Linear(2, 2)(torch.zeros(1, 2)).shape == (1, 2)
    assert (nn.Module.__call__, nn.Module.__getattr__) == (call, read)
    assert math.sqrt is root
    assert torchvision.models.swin_transformer.shifted_window_attention is attention
    assert warnings.filters == filters
    assert torch.zeros(1).device.type == "cpu"
