"""The attention branch: computes class scores and one attention map from features."""

import torch
from torch import Tensor, nn

from abn.modules.features import Features, feature_map_of
from abn.modules.inputs import check_counts, check_features
from abn.modules.linear import is_plain, without_bias
from abn.modules.maps import MAPS, check_map
from abn.modules.pooled_classifier import PooledClassifier


class AttentionBranch(nn.Module):
    r"""Scores the classes and shows where it looked. Scores and map come from one set of class responses.

    ::

        features ─► stage ─► BN ─► 1×1 conv C→R ─► BN ─► ReLU = responses r; R = K, one channel per class
                                   r ─► average pool ─► 1×1 conv R→K ─► attention_logits
                                   r ─► one of the maps below ────────► attention_map

    The scores are computed as in the official code, which made the published numbers. The official code
    differs from the figure in the paper (Fukui et al., "Attention Branch Network", CVPR 2019, section 3.1) by
    a batch norm behind the C→R convolution. Here the responses are pooled before the R→K convolution instead
    of after it. The scores stay the same, but cost K·R operations per image instead of per pixel.

    The R→K convolution starts from ten times the identity. So each response stands for one class from the
    first step on, and a response that fills a tenth of the image counts in full. With small random weights,
    as in the official code, the attention branch lags behind the perception branch for many epochs.

    The maps:

    - ``"evidence"``: the evidence for the classes, each weighted by its probability. A pixel's evidence for
      class c is :math:`e_c = \sum_k W_{ck} r_k` with W the weights of the R→K convolution. The score of c is
      the mean of :math:`e_c` over the pixels, so :math:`e_c` is the class activation of c (Zhou et al.,
      "Learning Deep Features for Discriminative Localization", CVPR 2016). With the branch's own
      probabilities p, A is the positive part of :math:`\sum_c p_c \, e_c`, averaged twice over 3×3 pixels and
      divided by its maximum. The map is :math:`A^6 / (A^6 + h^6 (1 - A^6))` with h = 0.5: near 1 where the
      evidence is strong, near 0 where it is weak, and one half where A = h. The map adds no weights. Unlike
      ``"convolution"`` and ``"log_sum"``, it cannot become inverted. It shows where the evidence is, not how
      much there is: its maximum is always 1. docs/photos.md and docs/explanations.md have the figures.
    - ``"class_activation"``: like ``"evidence"``, but averaged once, with a power of 4 and h = 0.25. For
      networks that are trained from scratch. On photographs it is near 1 over a third of the image.
    - ``"convolution"``: 3×3 conv R→1, BN, sigmoid, as in the official code and the published weights (the
      paper draws a 1×1 convolution). Here all weights of the convolution start from one positive constant,
      not with random signs. So a new map begins as the mean class response, and never as its negative.
    - ``"log_sum"``: :math:`\sum_k \log(1 + r_k)`, as in the official code's SE-ResNets, without upper bound.

    Args:
        in_channels: Channels of the stage's output, or of the features if there is no stage.
        num_classes: Number of classes K.
        stage: Module that runs on the features first. In the paper it is a copy of the backbone's last stage
            at stride 1. ``None`` runs nothing.
        map: Kind of map: ``"evidence"``, ``"class_activation"``, ``"convolution"`` or ``"log_sum"``.
        response_channels: Number R of response channels. Default: K, one per class, with two exceptions. For
            a single output R is 16, or its score would come from one channel alone. For more than 2048
            classes R is 2048, since the scores have K·R weights: half a billion for the 21841 classes of
            ImageNet-21k with R = K.

    Raises:
        ValueError: If a number is below one, or ``map`` is unknown.

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
        map: str = "class_activation",
        response_channels: int | None = None,
    ) -> None:
        super().__init__()
        check_map(map, several_tasks=False)
        check_counts(in_channels=in_channels, num_classes=num_classes, response_channels=response_channels)
        response_channels = response_channels or default_response_channels(num_classes)
        self.stage = nn.Identity() if stage is None else stage
        self.norm = nn.BatchNorm2d(in_channels)
        self.response_conv = nn.Conv2d(in_channels, response_channels, kernel_size=1, bias=False)
        self.response_norm = nn.BatchNorm2d(response_channels)
        self.classifier = nn.Conv2d(response_channels, num_classes, kernel_size=1, bias=False)
        with torch.no_grad():
            if response_channels == num_classes:
                nn.init.dirac_(self.classifier.weight).mul_(10)
            else:
                # No response stands for one class here, but the weights of each class have the length 10 as
                # above. Their sum is 0: else the mean response, which is never negative, would shift each
                # score by a random amount.
                nn.init.normal_(self.classifier.weight, std=10 * max(response_channels - 1, 1) ** -0.5)
                if response_channels > 1:  # one weight less its mean would be 0
                    self.classifier.weight -= self.classifier.weight.mean(dim=1, keepdim=True)
        self.num_classes: int | None = num_classes
        self.response_channels = None if response_channels == num_classes else response_channels
        self.map = map
        if (add_layers := MAPS[map].add_layers) is not None:
            add_layers(self, response_channels)

    def extra_repr(self) -> str:
        return f"map={self.map!r}"

    def responses(self, features: Tensor | Features) -> Tensor:
        """Computes the class responses r, from which the scores and the map are computed.

        Args:
            features: (B, C, H, W), or :class:`abn.modules.features.Features`.

        Returns:
            (B, R, h, w), at least 0, where (h, w) is the size of the stage's output.

        Raises:
            ValueError: If the features are not (B, C, H, W) or have a single pixel.
        """
        check_features(feature_map_of(features))
        received = feature_map_of(self.stage(features))
        responses: Tensor = self.response_norm(self.response_conv(self.norm(received))).relu()
        return responses

    def class_activation(self, responses: Tensor, shares: Tensor) -> Tensor:
        """Computes the map of the evidence for given classes.

        One forward pass thus gives the map of any class::

            responses = branch.responses(features)
            branch.class_activation(responses, F.one_hot(classes, K).float())  # classes (B,)

        Args:
            responses: (B, R, h, w), from :meth:`responses`.
            shares: Weight of each class, (B, K), adding up to 1 per image: one-hot for a single class, or
                probabilities.

        Returns:
            (B, 1, h, w), from 0 to its maximum of 1; 0 everywhere if no pixel has evidence for the classes.

        Raises:
            ValueError: If the branch's kind of map is not made of evidence.
        """
        if is_plain(self.classifier):  # K times less work than calling the classifier at each pixel
            weights = shares @ self.classifier.weight.flatten(1)  # (B, R)
            return _map_of(self.map, weights, responses)
        return _map_of(self.map, shares, without_bias(self.classifier, responses))

    def forward(self, features: Tensor | Features) -> tuple[Tensor, Tensor]:
        """Computes the class scores and the attention map.

        Args:
            features: (B, C, H, W), or :class:`abn.modules.features.Features`.

        Returns:
            ``attention_logits`` (B, K) and ``attention_map`` (B, 1, h, w), where (h, w) is the size of the
            stage's output. The map is in [0, 1], or at least 0 if it is a ``"log_sum"``.

        Raises:
            ValueError: If the features are not (B, C, H, W) or have a single pixel.
        """
        responses = self.responses(features)  # (B, R, h, w)
        attention_logits = self.classifier(responses.mean(dim=(2, 3), keepdim=True)).flatten(1)  # (B, K)
        if (of_responses := MAPS[self.map].of_responses) is not None:
            return attention_logits, of_responses(self, responses)
        # Detached: the perception branch, which uses the map, must not train which classes the map shows.
        shares = attention_logits.detach().softmax(dim=1).to(responses.dtype)
        return attention_logits, self.class_activation(responses, shares)


class PretrainedAttentionBranch(nn.Module):
    r"""Scores the classes and shows where it looked, with the classifier of a pretrained backbone.

    ::

        features ─► stage ─► responses r ─► average pool ─► classifier ─► attention_logits
                                         └─► evidence for the classes ──► attention_map

    The backbone's classifier is read as the evidence for each class at each pixel of the last feature map.
    The scores are the mean of the evidence over the pixels: see :class:`abn.PooledClassifier`. So the branch
    is as good as the backbone from the start. It is the branch of Fukui et al., CVPR 2019, section 3.1, but
    with the backbone's own layers. :class:`AttentionBranch` has new layers, which must be trained first.

    Args:
        classifier: Computes the scores from the pooled output of the stage.
        stage: Module that runs on the features first: the part of the backbone between the features and the
            last feature map. ``None`` if there is nothing between.
        map: ``"evidence"`` or ``"class_activation"``, see :class:`AttentionBranch`.

    Raises:
        ValueError: If ``map`` is not ``"evidence"`` or ``"class_activation"``.

    Example:
        >>> branch = PretrainedAttentionBranch(PooledClassifier([nn.Linear(256, 10)]))
        >>> attention_logits, attention_map = branch(torch.randn(2, 256, 14, 14))
        >>> attention_logits.shape, attention_map.shape
        (torch.Size([2, 10]), torch.Size([2, 1, 14, 14]))
    """

    def __init__(
        self, classifier: PooledClassifier, stage: nn.Module | None = None, *, map: str = "evidence"
    ) -> None:
        super().__init__()
        check_map(map, several_tasks=False)
        if MAPS[map].of_evidence is None:
            raise ValueError(
                f"map is {map!r}, which needs layers that no backbone has: start the branch anew, with "
                "AttentionBranch or start='new'"
            )
        self.stage = nn.Identity() if stage is None else stage
        self.classifier = classifier
        self.num_classes = classifier.out_channels
        self.map = map

    def extra_repr(self) -> str:
        return f"map={self.map!r}"

    def responses(self, features: Tensor | Features) -> Tensor:
        """Computes the stage's output, from which the scores and the map are computed.

        Args:
            features: (B, C, H, W), or :class:`abn.modules.features.Features`.

        Returns:
            (B, C', h, w).

        Raises:
            ValueError: If the features are not (B, C, H, W) or have a single pixel.
        """
        check_features(feature_map_of(features))
        return feature_map_of(self.stage(features))

    def class_activation(self, responses: Tensor, shares: Tensor) -> Tensor:
        """Computes the map of the evidence for given classes, as :meth:`AttentionBranch.class_activation`."""
        pooled = responses.mean(dim=(2, 3))
        if self.classifier.is_plain():
            return _map_of(self.map, self.classifier.weights(pooled, shares), responses)
        return _map_of(self.map, shares, self.classifier.evidence(pooled, responses))

    def forward(self, features: Tensor | Features) -> tuple[Tensor, Tensor]:
        """Computes the class scores and the attention map.

        Args:
            features: (B, C, H, W), or :class:`abn.modules.features.Features`.

        Returns:
            ``attention_logits`` (B, K) and ``attention_map`` (B, 1, h, w), in [0, 1], where (h, w) is the
            size of the stage's output.

        Raises:
            ValueError: If the features are not (B, C, H, W) or have a single pixel.
        """
        responses = self.responses(features)  # (B, C', h, w)
        attention_logits = self.classifier(responses.mean(dim=(2, 3)))  # (B, K)
        # Detached: the perception branch, which uses the map, must not train which classes the map shows.
        shares = attention_logits.detach().softmax(dim=1).to(responses.dtype)
        return attention_logits, self.class_activation(responses, shares)


def _map_of(kind: str, weights: Tensor, channels: Tensor) -> Tensor:
    """Makes the map (B, 1, h, w) from the sum of channels (B, R, h, w), weighted with (B, R)."""
    of_evidence = MAPS[kind].of_evidence
    if of_evidence is None:
        raise ValueError(
            f"map is {kind!r}, which is not made of evidence for classes, expected map='evidence'"
        )
    evidence = (weights[:, :, None, None] * channels).sum(dim=1, keepdim=True, dtype=torch.float32)
    return of_evidence(evidence).to(channels.dtype)


def default_response_channels(num_classes: int) -> int:
    """Returns the default number R of response channels, see :class:`AttentionBranch`."""
    return 16 if num_classes == 1 else min(num_classes, 2048)
