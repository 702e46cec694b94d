"""Writes the card of a network that is published: what is known of it, and how to load it."""

from typing import Any

from abn.modules.maps import MAPS, kind_of


def model_card(
    model: Any,
    repo_id: str,
    *,
    license: str | None = None,
    dataset: str | None = None,
    accuracy: float | None = None,
) -> str:
    """Returns the README of a repository of the Hugging Face Hub, with metadata for its search.

    Args:
        model: The :class:`abn.ABN`.
        repo_id: ``"owner/name"``.
        license: Licence of the weights, as the Hub names it.
        dataset: Name of the data that the network was trained with.
        accuracy: Top-1 accuracy on the test images of this data, 0 to 1.

    Raises:
        ValueError: If the accuracy is not within 0 and 1.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData  # slow to import, and seldom needed

    if accuracy is not None and not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy is {accuracy}, expected 0 to 1")
    results = None
    if accuracy is not None and dataset is not None:
        results = [
            EvalResult(
                task_type="image-classification",
                dataset_type=dataset,
                dataset_name=dataset,
                metric_type="accuracy",
                metric_value=accuracy,
            )
        ]
    data = ModelCardData(
        library_name="abn",
        pipeline_tag="image-classification",
        tags=["attention-branch-network", "explainability", "pytorch"],
        license=license,
        datasets=None if dataset is None else [dataset],
        model_name=repo_id.rpartition("/")[2],
        eval_results=results,
    )
    arguments = model.built_with or {}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    rows = {
        "network": f"`{arguments.get('model') or arguments.get('backbone')}`",
        "parameters": f"{parameters / 1e6:.1f} million",
        "preparation of images": model.preprocessing or "not known",
        "trained with": dataset or "not known",
        "top-1 accuracy": "not known" if accuracy is None else f"{accuracy:.1%}",
        "licence of the weights": license or "not stated",
        "classes": _shortened(model.classes),
    }
    cells = {name: str(value).replace("|", "\\|").replace("\n", " ") for name, value in rows.items()}
    table = "\n".join(f"| {name} | {value} |" for name, value in cells.items())
    text = _TEXT.format(
        repo_id=repo_id,
        table=table,
        preprocessing="abn.Preprocessing()" if model.preprocessing is None else "model.preprocessing",
        draw=_line_that_draws(model),
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}"))


def _line_that_draws(model: Any) -> str:
    """Returns the line of Python that draws the map or the maps."""
    branch = model.attention_branch
    kind = kind_of(branch) or MAPS["evidence"]
    how = ', sign="both"' if kind.signed else "" if kind.bounded else ", rescale=True"
    if hasattr(branch, "tasks") or kind.signed:
        names = "model.classes or range(len(attention_map[0]))"
        return f'task_grid(view, attention_map[0], {names}{how}).save("maps.png")'
    return f'overlay(view, attention_map[0]{how}).save("map.png")'


def _shortened(classes: Any) -> str:
    """Returns the names of the first classes, for a table."""
    if not classes:
        return "not known"
    names = list(map(str, classes))
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


_TEXT = """# {repo_id}

An Attention Branch Network (Fukui et al., CVPR 2019): an image classifier that computes, in its forward
pass, a map of where it looks, and uses it for the prediction.

| | |
| --- | --- |
{table}

```python
import abn
from abn.images import read_image
from abn.visualize import overlay, task_grid

model = abn.hub.load("{repo_id}").eval()
photograph = read_image("photo.jpg")
_, logits, attention_map = model({preprocessing}(photograph)[None])
view = {preprocessing}.view(photograph)
{draw}
```

The map shows where evidence was weighted. It does not show what was seen there, and features outside of it
still count.
"""
