"""The errors for networks that work on tokens, such as vision transformers, and cannot be cut."""

from torch import nn

from abn.retrofit.dry_run import Shape, input_shapes


def receives_tokens(backbone: nn.Module, shape: Shape) -> bool:
    """Whether more than three quarters of the layers receive tokens (B, N, C).

    This works for backbones that cannot be traced.
    """
    layers = [name for name, layer in backbone.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    try:
        received = input_shapes(backbone, layers, shape).values()
    except Exception:  # it cannot be run either
        return False
    return sum(len(sizes) == 2 for sizes in received) > 0.75 * len(received)


def by_hand() -> str:
    """Writes what to do with a network of tokens that cannot be cut."""
    return (
        "Build the network by hand, with ABN(feature_extractor, ...), whose first part ends by folding its "
        "tokens into a feature map (without a class token: transpose(1, 2).unflatten(2, (H, W))) and whose "
        "tail begins by flattening it (flatten(2).transpose(1, 2))"
    )


def places_unknown(backbone: nn.Module) -> str:
    """Writes the error for a network of tokens whose places in the image are not known."""
    return (
        f"{type(backbone).__name__} works on tokens, and it cannot be told which token stands for which "
        "patch of the image. Expected tokens (B, N, C), the batch first, that the network does not shuffle "
        f"by an index. {by_hand()}"
    )
