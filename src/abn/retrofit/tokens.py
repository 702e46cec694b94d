"""Recognises networks that work on tokens, such as vision transformers, which cannot be retrofitted."""

import math

from torch import Tensor, nn

from abn.retrofit.dry_run import BATCH, Shape, input_shapes
from abn.retrofit.splits import Chain


def tokens_of(chain: Chain) -> tuple[int, int] | None:
    """Returns (N, C) of the tokens that the network works on, or None if it works on feature maps.

    A network of tokens has more than three quarters of its layers behind its last feature map.
    """
    last = chain.maps[chain.end]
    if chain.layers - last.layers <= 0.75 * chain.layers:
        return None
    nodes = list(chain.graph.nodes)
    values = (node.meta.get("val") for node in nodes[nodes.index(last.node) + 1 :])
    shapes = [value.shape for value in values if isinstance(value, Tensor) and value.shape[:1] == (BATCH,)]
    if chain.end > 0 and any(len(shape) == 4 and shape[2] * shape[3] > 1 for shape in shapes):
        return None  # later feature maps exist, but some path goes around them
    tokens = [(shape[1], shape[2]) for shape in shapes if len(shape) == 3 and shape[1] > 1]
    return max(tokens, key=math.prod, default=None)


def tokens_received(backbone: nn.Module, shape: Shape) -> tuple[int, int] | None:
    """Returns (N, C) of the tokens, if more than three quarters of the layers receive tokens; else None.

    This works for backbones that cannot be traced.
    """
    layers = [name for name, layer in backbone.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    try:
        received = input_shapes(backbone, layers, shape).values()
    except Exception:  # it cannot be run either
        return None
    tokens = [sizes for sizes in received if len(sizes) == 2]
    return max(tokens, key=math.prod) if len(tokens) > 0.75 * len(received) else None


def about_tokens(backbone: nn.Module, tokens: tuple[int, int]) -> str:
    """Writes the error message for a backbone of tokens (N, C), which says what to do."""
    return (
        f"{type(backbone).__name__} is a network of tokens {('B', *tokens)}, but an attention branch needs "
        "feature maps (B, C, H, W). Build the network by hand, with ABN(feature_extractor, ...), whose first "
        "part ends by folding its tokens into a feature map (without a class token: "
        "transpose(1, 2).unflatten(2, (H, W))) and whose tail begins by flattening it "
        "(flatten(2).transpose(1, 2))"
    )
