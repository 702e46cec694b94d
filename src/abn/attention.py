"""The attention branch: from features to class scores and one attention map."""

from typing import Literal, get_args

from torch import Tensor, nn

MapKind = Literal["convolution", "log_sum"]


class AttentionBranch(nn.Module):
    r"""Scores the classes and shows where it looked, from the same class responses.

    ::

        features ─► stage ─► BN ─► 1×1 conv C→K ─► BN ─► ReLU = responses r, one channel per class
                                   r ─► average pool ─► 1×1 conv K→K ──────► attention_logits
                                   r ─► 3×3 conv K→1 ─► BN ─► sigmoid ─────► attention_map

    This is the branch of the official code, with which the published numbers were made. It differs
    from the figure in the paper (Fukui et al., "Attention Branch Network", CVPR 2019, section 3.1) in
    two layers: the convolution that makes the map is 3×3 instead of 1×1, and a batch norm follows the
    convolution to K channels. Two departures from the official code, neither of which changes what a
    set of weights computes: the responses are pooled before the K→K convolution instead of after it
    (the two commute, and pooling first costs K² per image instead of per pixel), and the K→1
    convolution starts from one positive constant instead of random signs, so that a new map begins as
    the mean class response and not, by chance, as its negative.

    The official code's SE-ResNets make their map in another way, without weights of its own and without
    an upper bound: :math:`M = \sum_k \log(1 + r_k)`.

    Args:
        in_channels: Channels that the heads read: those of the stage's output, or those of the
            features where there is no stage.
        num_classes: Number of classes K.
        stage: Runs on the features first. In the paper a copy of the backbone's last stage at
            stride 1. ``None`` lets the heads read the features as they are.
        map: How the responses become the map: ``"convolution"`` as drawn, in [0, 1]; or ``"log_sum"``,
            the sum over all classes of log(1 + r), at least 0.

    Raises:
        ValueError: If ``in_channels`` or ``num_classes`` is below one, or ``map`` is neither of the two.

    Example:
        >>> import torch
        >>> branch = AttentionBranch(in_channels=256, num_classes=10)
        >>> attention_logits, attention_map = branch(torch.randn(2, 256, 14, 14))
        >>> attention_logits.shape, attention_map.shape
        (torch.Size([2, 10]), torch.Size([2, 1, 14, 14]))
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        stage: nn.Module | None = None,
        *,
        map: MapKind = "convolution",
    ) -> None:
        super().__init__()
        for name, value in {"in_channels": in_channels, "num_classes": num_classes}.items():
            if value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        if map not in get_args(MapKind):
            raise ValueError(f"map is {map!r}, expected one of {get_args(MapKind)}")
        self.stage = nn.Identity() if stage is None else stage
        self.norm = nn.BatchNorm2d(in_channels)
        self.response_conv = nn.Conv2d(in_channels, num_classes, kernel_size=1, bias=False)
        self.response_norm = nn.BatchNorm2d(num_classes)
        self.classifier = nn.Conv2d(num_classes, num_classes, kernel_size=1, bias=False)
        self.map = map
        if map == "convolution":
            self.map_conv = nn.Conv2d(num_classes, 1, kernel_size=3, padding=1, bias=False)
            self.map_norm = nn.BatchNorm2d(1)
            # Nothing in the loss fixes the map's sign, so the start decides it. The constant has the
            # root mean square of PyTorch's own initialisation of this layer.
            nn.init.constant_(self.map_conv.weight, (3 * 9 * num_classes) ** -0.5)

    def extra_repr(self) -> str:
        return f"map={self.map!r}"

    def responses(self, features: Tensor) -> Tensor:
        """Class responses r, from which the scores and the map are computed.

        Args:
            features: (B, C, H, W).

        Returns:
            (B, K, h, w), at least 0; h and w are those of the stage's output.

        Raises:
            ValueError: If the features are not (B, C, H, W) or have a single pixel.
        """
        if features.ndim != 4 or features.shape[-2] * features.shape[-1] == 1:
            raise ValueError(
                f"features have shape {tuple(features.shape)}, expected (B, C, H, W) with more than one "
                "pixel, or there is nothing to attend to: use larger images or an earlier split"
            )
        responses: Tensor = self.response_norm(self.response_conv(self.norm(self.stage(features)))).relu()
        return responses

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the class scores and the attention map.

        Args:
            features: (B, C, H, W).

        Returns:
            ``attention_logits`` (B, K) and ``attention_map`` (B, 1, h, w), in [0, 1] or, as a
            ``"log_sum"``, at least 0; h and w are those of the stage's output.

        Raises:
            ValueError: If the features are not (B, C, H, W) or have a single pixel.
        """
        responses = self.responses(features)  # (B, K, h, w)
        attention_logits = self.classifier(responses.mean(dim=(2, 3), keepdim=True)).flatten(1)  # (B, K)
        if self.map == "log_sum":
            attention_map = responses.log1p().sum(dim=1, keepdim=True)  # (B, 1, h, w)
        else:
            attention_map = self.map_norm(self.map_conv(responses)).sigmoid()  # (B, 1, h, w)
        return attention_logits, attention_map
