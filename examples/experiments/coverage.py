"""Wraps every classifier of torchvision and timm, and writes tables of the results.

    python examples/experiments coverage  # all of them, in hours; goes on where it stopped
    python examples/experiments coverage --models "timm/resnet*" --directory /tmp

Each model is built with random weights and wrapped as if it were pretrained, for images of its own size. An
encoder without a classifier gets one for 1000 classes. A model with few enough parameters is then run with
numbers, at the smallest size of images that it takes: a map of ones must give the plain model's logits bit
for bit, the dense stage must hold the model's own last feature map, and the loss must give every parameter a
gradient. Larger models stay on the meta device.

Writes coverage.csv, one row per model, and coverage.md, one row per family.
"""

import argparse
import collections
import csv
import fnmatch
import io
import itertools
import multiprocessing
import os
import warnings
from pathlib import Path

import timm
import torch
import torchvision
from torch import nn
from tqdm import tqdm

from abn import ABN, ABNLoss, PretrainedAttentionBranch, wrap_backbone
from abn.modules.features import feature_map_of
from abn.retrofit.backbones import create_backbone, input_shape
from abn.retrofit.cut import cut
from abn.retrofit.dry_run import dry_run
from abn.retrofit.last_layer import replace_classifier
from abn.retrofit.stages import make_stage
from experiments.common.runs import DOCS, write_text
from experiments.common.tables import table

COLUMNS = ["model", "family", "parameters", "split", "features", "map", "stage", "classifier"]
COLUMNS += ["equal", "dense error", "gradients", "image", "note"]
HEAD = [
    "family",
    "wrapped",
    "run",
    "equal",
    "gradients",
    "dense",
    "keeps its stride",
    "none",
    "exact",
    "classifier",
]
EXACT = 1e-4  # of the standard deviation of the last feature map
IMAGE_SIZES = (64, 96, 128, 160, 192, 224, 256, 288, 320)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="*", help="which ones, as a pattern such as 'timm/resnet*'")
    parser.add_argument(
        "--limit", type=float, default=50, help="millions of parameters up to which one is run"
    )
    parser.add_argument("--directory", type=Path, default=DOCS, help="where the two files are written")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes, one thread each")
    arguments = parser.parse_args()
    table = arguments.directory / "coverage.csv"

    rows = read(table) if table.exists() else {}
    todo = [name for name in all_models() if fnmatch.fnmatch(name, arguments.models) and name not in rows]
    # New processes now and then, since the libraries never free some of their memory.
    with multiprocessing.get_context("spawn").Pool(arguments.workers, maxtasksperchild=20) as pool:
        work = pool.imap_unordered(examine, [(name, arguments.limit) for name in todo])
        for row in tqdm(work, total=len(todo), unit="model", disable=None):
            rows[row["model"]] = row
            write_table(table, rows)
    write_text(arguments.directory / "coverage.md", report(rows, arguments.limit))
    print(f"{sum(row['split'] != '' for row in rows.values())} of {len(rows)} models wrapped, see {table}")


def all_models() -> list[str]:
    of_torchvision = torchvision.models.list_models(module=torchvision.models)
    return [f"torchvision/{name}" for name in of_torchvision] + [
        f"timm/{name}" for name in timm.list_models()
    ]


def examine(task: tuple[str, float]) -> dict[str, str]:
    """Wraps one model, and returns its row of the table."""
    name, limit = task
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    row = dict.fromkeys(COLUMNS, "") | {"model": name}
    try:
        backbone, device = build(name, limit)
        classes = {}
        row["family"] = f"{name.split('/')[0]}/{type(backbone).__module__.split('.')[-1]}"
        if getattr(backbone, "num_classes", None) == 0:  # an encoder, which gets a classifier
            classes = {"num_classes": 1000}
            with torch.device(device):
                backbone = replace_classifier(backbone, 1000, input_shape(backbone, None))
        row["parameters"] = f"{count(backbone) / 1e6:.1f} M"
        with torch.device(device):
            try:
                model = wrap_backbone(name, start="pretrained", **classes)
            except ValueError:  # its classifier cannot be read pixel by pixel, or it cannot be cut
                model = wrap_backbone(name, stage="dense", map="evidence", mechanism="dimming", **classes)
        describe(model, input_shape(backbone, None), row)
        if count(backbone) <= limit * 1e6:
            compare(backbone, model, row)
        else:
            row["note"] = "not run: above the limit of parameters"
    except Exception as error:  # any error belongs in the table
        row["note"] = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0][:300]
    return row


def build(name: str, limit: float) -> tuple[nn.Module, str]:
    """Builds the plain model. Its device is meta if it is above the limit, and can be built there."""
    try:
        with torch.device("meta"):
            backbone = create_backbone(name)
    except Exception:  # some models compute with numbers when they are built
        return create_backbone(name), "cpu"
    if count(backbone) > limit * 1e6:
        return backbone, "meta"
    return create_backbone(name), "cpu"


def count(backbone: nn.Module) -> int:
    return sum(parameter.numel() for parameter in backbone.parameters())


def describe(model: ABN, shape: tuple[int, int, int], row: dict[str, str]) -> None:
    features = feature_map_of(dry_run(model.feature_extractor, shape))
    attention_map = dry_run(model, shape).attention_map
    row["split"] = model.built_with["split"]
    row["features"] = "×".join(map(str, features.shape[1:]))
    row["map"] = "×".join(map(str, attention_map.shape[2:]))
    if isinstance(model.attention_branch.stage, nn.Identity):
        row["stage"] = "none"
    else:
        row["stage"] = "dense" if attention_map.shape[2:] == features.shape[2:] else "keeps its stride"
    if isinstance(model.attention_branch, PretrainedAttentionBranch):
        row["classifier"] = model.attention_branch.classifier.summary()


def compare(backbone: nn.Module, model: ABN, row: dict[str, str]) -> None:
    channels, *own_size = input_shape(backbone, None)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)  # some parameters start at zero
        own = backbone.state_dict()
        for part in (model.feature_extractor, model.perception_branch.tail):
            for key, value in part.state_dict().items():
                own[key].copy_(value)
    backbone.eval(), model.eval()
    for size in [(size, size) for size in IMAGE_SIZES if size < max(own_size)] + [tuple(own_size)]:
        images = torch.randn(2, channels, *size)
        try:
            with torch.no_grad():
                expected = backbone(images)
            break
        except Exception:  # too small, or not the size that it was built for
            if size == tuple(own_size):
                raise
    with torch.no_grad():
        output = model(images, attention_map=torch.ones(1, 1, 1))
    row["image"] = "×".join(map(str, size))
    alike = torch.equal(*expected)  # then the logits do not depend on the image
    row["equal"] = "yes" if torch.equal(output.perception_logits, expected) and not alike else "no"
    row["dense error"] = dense_error(backbone, images)
    ABNLoss()(model.train()(images), torch.tensor([0, 1])).backward()
    missing = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    row["gradients"] = f"none for {', '.join(missing)}" if missing else "all"


@torch.no_grad()
def dense_error(backbone: nn.Module, images: torch.Tensor) -> str:
    """Tells how far the dense stage is from the last feature map where they must be equal, in deviations."""
    parts = cut(backbone, input_shape(backbone, None), None)
    if parts.stage is None:
        return ""
    dense = make_stage("dense", parts)
    assert dense is not None
    if dry_run(dense, parts.received).shape[2:] != parts.features[1:]:
        return ""  # it keeps its stride
    features = parts.feature_extractor(images)
    expected, output = parts.stage(features), dense(features)
    rows, columns = (round(output.shape[i] / expected.shape[i]) for i in (2, 3))
    errors = []
    for i, j in itertools.product(
        range(rows), range(columns)
    ):  # which pixels are equal depends on the padding
        chosen = output[..., i::rows, j::columns]
        height, width = (min(chosen.shape[k], expected.shape[k]) for k in (2, 3))
        errors.append((chosen[..., :height, :width] - expected[..., :height, :width]).abs().max())
    return f"{(min(errors) / expected.std()).item():.1e}"


def read(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


def write_table(path: Path, rows: dict[str, dict[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[name] for name in sorted(rows))
    write_text(path, text.getvalue())


def report(rows: dict[str, dict[str, str]], limit: float) -> str:
    families: dict[str, list[dict[str, str]]] = collections.defaultdict(list)
    for name in sorted(rows):
        families[rows[name]["family"]].append(rows[name])
    wrapped = {family: done for family, models in sorted(families.items()) if (done := wrapped_of(models))}
    wrapped["**all**"] = [row for done in wrapped.values() for row in done]
    refused = {
        family: [row["note"] for row in models if not row["split"]] for family, models in families.items()
    }
    return REPORT.format(
        versions=f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}",
        limit=f"{limit:g}",
        exact=EXACT,
        wrapped=table([HEAD, *(line(family, done) for family, done in wrapped.items())]),
        refused=table(
            [
                ["family", "models", "what the error says, most often"],
                *(
                    [family, f"{len(notes)} of {len(families[family])}", most_common(notes)]
                    for family, notes in sorted(refused.items())
                    if notes
                ),
            ]
        ),
    )


def wrapped_of(models: list[dict[str, str]]) -> list[dict[str, str]]:
    return [row for row in models if row["split"]]


def line(family: str, done: list[dict[str, str]]) -> list[object]:
    ran = [row for row in done if row["image"]]
    figures: list[object] = [family, len(done), len(ran), sum(row["equal"] == "yes" for row in ran)]
    figures += [sum(row["gradients"] == "all" for row in ran)]
    figures += [sum(row["stage"] == kind for row in done) for kind in ("dense", "keeps its stride", "none")]
    compared = [float(row["dense error"]) for row in ran if row["dense error"]]
    figures += [f"{sum(error <= EXACT for error in compared)} of {len(compared)}"]
    figures += [sum(row["classifier"] != "" for row in done)]
    return figures


def most_common(notes: list[str]) -> str:
    ((note, _),) = collections.Counter(notes).most_common(1)
    return note.replace("|", "\\|")


REPORT = """\
# Which models can be wrapped

Which classifiers of torchvision and timm `wrap_backbone` accepts, family by family. A family is the module of
the library that defines its models. [coverage.csv](coverage.csv) has a row for each model: where it is cut,
the shape of its features and of its map, or the reason why it is refused.
Made by `python examples/experiments coverage` with {versions}.

- **wrapped**: models for which `wrap_backbone(name)` returns a network.
- **run**: wrapped models that were run with numbers, because they have at most {limit} million parameters.
  The others were wrapped on the meta device, which knows shapes alone.
- **equal**: run models whose logits with a map of ones are the plain model's, bit for bit, and depend on the
  image.
- **gradients**: run models in which the loss gives every parameter a gradient. In CrossViT, two streams of
  tokens run side by side. The attention branch reads one of them, so that the last layers of the other get no
  gradient in its stage: for DistributedDataParallel, set `find_unused_parameters`.
- **dense**, **keeps its stride**, **none**: what the attention branch runs first. *dense*: a copy of the last
  stage, run at every pixel; the map is as fine as the features. *keeps its stride*: a plain copy of the last
  stage; the map is resized to the features. *none*: nothing, because no stage lies behind the split.
- **exact**: dense stages that were run and hold the model's own last feature map at every r-th pixel, where r
  is the stride of the last stage, to {exact:g} of the standard deviation of that feature map.
- **classifier**: wrapped models whose attention branch starts from the model's own classifier. In the other
  models the attention branch starts from a new classifier.

{wrapped}

## Refused

{refused}
"""
