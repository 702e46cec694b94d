"""Checks that a backbone is a classifier, and that its graph does what its forward does."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from abn.retrofit.chain import Chain, chain_of
from abn.retrofit.dry_run import BATCH, OTHER_BATCH, Shape, rehearse, rehearse_on_meta
from abn.retrofit.errors import CutError, cannot_run, not_logits
from abn.retrofit.graphs import Interpreter
from abn.retrofit.operations import OperationLog, first_difference
from abn.retrofit.tokens import by_hand, places_unknown, receives_tokens


def checked_chain(backbone: nn.Module, shape: Shape, split: str | None = None) -> Chain:
    """Traces the backbone and checks the graph against the backbone's own forward.

    The graph and the forward are run on images. Both must do the same tensor operations in the same order.

    Args:
        backbone: Any network.
        shape: (C, H, W) of its images.
        split: Name of a submodule after which the backbone is to be cut. Containers around it are opened.

    Raises:
        CutError: If the backbone cannot be run or traced, if its forward does something that the graph does
            not do, or if the backbone is not a classifier with a feature map.
    """
    _check_arguments(backbone)
    try:
        operations, other = _operations_of_forward(backbone, shape)
        chain = chain_of(backbone, shape, other, split)
    except CutError as error:
        if receives_tokens(backbone, shape):
            raise CutError(f"{error}\n{by_hand()}") from error
        raise
    _check_classifier(chain, backbone, shape)

    def run_graph(copy: nn.Module, images: Tensor) -> tuple[OperationLog, Any]:
        return _logged(copy, images, Interpreter(copy, graph=chain.graph).run)

    traced = _leading_to_logits(backbone, *rehearse(backbone, other, run_graph, OTHER_BATCH))
    if (difference := first_difference(operations, traced)) is not None:
        # For example hooks and instance methods on the backbone, or a branch on the type of a tensor.
        raise CutError(
            f"{type(backbone).__name__}.forward does something that its trace has lost: {difference}. Move "
            "it into a submodule of its own, or build the network by hand with ABN(feature_extractor, ...)"
        )
    return chain


def _operations_of_forward(backbone: nn.Module, shape: Shape) -> tuple[list[str], Shape]:
    """Logs the tensor operations of the backbone's forward that lead to the logits.

    Returns:
        The operations, and the shape (C, H, W) of the images that they were run on. The images are twice as
        high as ``shape``, so that rows and columns can be told apart, or of ``shape`` if the backbone does
        not take taller images.
    """

    def run_forward(copy: nn.Module, images: Tensor) -> tuple[OperationLog, Any]:
        return _logged(copy, images, copy)

    channels, height, width = shape
    taller = channels, 2 * height, width
    try:
        logged = rehearse_on_meta(backbone, taller, run_forward, OTHER_BATCH)
    except Exception:
        # The backbone takes no taller images, or does not run on the meta device. There is no second try with
        # taller images for real, because it would take long.
        try:
            logged = rehearse(backbone, shape, run_forward, OTHER_BATCH)
        except Exception as error:  # the forward is the user's own code, and may fail in any way
            raise cannot_run(backbone, shape, error) from error
        return _leading_to_logits(backbone, *logged), shape
    return _leading_to_logits(backbone, *logged), taller


def _logged(
    backbone: nn.Module, images: Tensor, forward: Callable[[Tensor], Any]
) -> tuple[OperationLog, Any]:
    log = OperationLog(backbone, images)
    with log:
        return log, forward(images)


def _leading_to_logits(backbone: nn.Module, log: OperationLog, logits: Any) -> list[str]:
    if not isinstance(logits, Tensor):
        raise not_logits(backbone, logits)
    return log.leading_to(logits)


def _check_arguments(backbone: nn.Module) -> None:
    """Raises a CutError if the forward requires more arguments than images."""
    parameters = inspect.signature(backbone.forward).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]
    if len(required) > 1:
        raise CutError(
            f"{type(backbone).__name__}.forward takes {', '.join(required)}, expected images alone: hand "
            "over a module around it, whose forward makes the rest, such as\n"
            "    return self.network(images[:, :3], images[:, 3:])\n"
            "or write the forward of the network yourself, from three modules (see ABN)"
        )


def _check_classifier(chain: Chain, backbone: nn.Module, shape: Shape) -> None:
    """Raises a CutError if the graph has no feature map, or returns anything but logits (B, K)."""
    name, images = type(backbone).__name__, ("B", *shape)
    if len(chain.maps) == 1:
        if receives_tokens(backbone, shape):
            raise CutError(places_unknown(backbone))
        values = {node.name: node.meta.get("val") for node in chain.graph.nodes}
        seen = [f"{key} {tuple(value.shape)}" for key, value in values.items() if isinstance(value, Tensor)]
        raise CutError(
            f"{name} has no feature map (B, C, H, W) of more than one pixel that every path from images "
            f"{images} to the logits goes through. Seen: {', '.join(seen)}. Is it a convolutional "
            "network or a vision transformer, and input_size= large enough for it? Or does something else go "
            "past its feature maps?"
        )
    (logits,) = chain.graph.output_node().all_input_nodes
    scores = tuple(logits.meta["val"].shape)
    if len(scores) != 2 or scores[0] != BATCH:
        raise CutError(
            f"{name} returns {('B', *scores[1:])} for images {images}, expected logits (B, K): hand over a "
            "classifier"
        )
