"""The error for backbones that cannot be retrofitted, and its most frequent messages."""

from torch import nn

from abn.retrofit.dry_run import Shape


class CutError(ValueError):
    """The backbone cannot be cut. The message says what was seen and what to do."""


def cannot_run(backbone: nn.Module, shape: Shape, error: Exception) -> CutError:
    """Makes the error for a backbone that does not take images of this shape (C, H, W)."""
    reason, *_ = (str(error) or type(error).__name__).splitlines()
    return CutError(
        f"{type(backbone).__name__} does not run on images {('B', *shape)}: {reason}\n"
        "Give input_size=, one number of pixels or (C, H, W), as it expects"
    )


def not_logits(backbone: nn.Module, output: object) -> CutError:
    """Makes the error for a backbone that returns anything but one tensor."""
    return CutError(
        f"{type(backbone).__name__}.forward returns a {type(output).__name__}, expected one tensor of "
        "logits: hand over a module around it, whose forward picks them out, such as\n"
        "    return self.network(images)['logits']"
    )
