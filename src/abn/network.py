"""The network: a feature extractor, an attention branch and a perception branch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import _register_namedtuple

from abn.modules.inputs import check_images, check_range, explain_failure
from abn.modules.maps import MAPS
from abn.preprocessing import Preprocessing
from abn.saving import push, save


class ABNOutput(NamedTuple):
    """What an :class:`ABN` returns; unpacks like a tuple."""

    attention_logits: Tensor
    """Scores of the attention branch, (B, K); of T tasks (B, T) or, with K classes each, (B, K, T). With
    ``map="response"`` or ``"scaled_response"`` (B, T) in both cases."""
    perception_logits: Tensor
    """Scores of the perception branch, (B, K), (B, T) or (B, K, T): the network's prediction."""
    attention_map: Tensor
    """Where the network looked, (B, 1, h, w) or one map per task, (B, T, h, w), in [0, 1]; but for two kinds
    of official networks, where ``map="log_sum"`` is at least 0, and ``"response"`` is of any sign."""


# Else torch.export.save() refuses a network that returns one.
_register_namedtuple(ABNOutput, serialized_type_name="abn.ABNOutput")


class ABN(nn.Module):
    """Attention Branch Network: a classifier that computes its visual explanation as it classifies.

    Fukui, Hirakawa, Yamashita and Fujiyoshi, "Attention Branch Network: Learning of Attention Mechanism
    for Visual Explanation", CVPR 2019, `arXiv:1812.10025 <https://arxiv.org/abs/1812.10025>`_.

    :func:`abn.wrap_backbone` makes one from a backbone; any three modules that fit together do as well.

    Args:
        feature_extractor: Images (B, C, H, W) to features (B, C', h, w).
        attention_branch: Features to ``(attention_logits, attention_map)``, such as
            :class:`abn.AttentionBranch`.
        perception_branch: ``(features, attention_map)`` to logits, such as :class:`abn.PerceptionBranch`.

    Example:
        >>> from abn import AttentionBranch, PerceptionBranch
        >>> model = ABN(
        ...     nn.Conv2d(3, 16, kernel_size=3, stride=2),
        ...     AttentionBranch(in_channels=16, num_classes=10),
        ...     PerceptionBranch(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))),
        ... )
        >>> attention_logits, perception_logits, attention_map = model(torch.randn(2, 3, 33, 33))
        >>> perception_logits.shape, attention_map.shape
        (torch.Size([2, 10]), torch.Size([2, 1, 16, 16]))
    """

    in_channels: int | None = None
    """Channels of the images that the network was made for, where known."""

    def __init__(
        self, feature_extractor: nn.Module, attention_branch: nn.Module, perception_branch: nn.Module
    ) -> None:
        super().__init__()
        self.feature_extractor = feature_extractor
        self.attention_branch = attention_branch
        self.perception_branch = perception_branch
        self.built_with: dict[str, Any] | None = None
        """The arguments of :func:`abn.wrap_backbone`, or of the builder named under ``"model"``, that build
        this network; none if no name builds it. (``config`` is what transformers would take for its own.)
        """
        self.stage: str | None = None
        """The kind of stage, for the configuration; none if it is a module of the user's own."""
        self.preprocessing: Preprocessing | None = None
        """What is done to images before the network sees them, where known. Saved with the network."""
        self.classes: Sequence[str] | None = None
        """Names of the K classes, or of the tasks, where known. Saved with the network."""

    def forward(self, images: Tensor, attention_map: Tensor | None = None) -> ABNOutput:
        """Classifies the images.

        Args:
            images: (B, C, H, W), floating point, normalised as the backbone expects.
            attention_map: Takes the place of the computed map in the attention mechanism: a map edited
                by a person, or a mask. (B, 1, h, w) or (B, h, w), B = 1 for one map for all images, of
                any resolution; where there are tasks (B, T, h, w), or T = 1 for one map for all. Bool, or
                floating point: from 0 to 1, where the network's own maps are.

        Returns:
            ``(attention_logits, perception_logits, attention_map)``. The map is always the computed one,
            so that it can be compared with, or trained towards, the one that was given.

        Raises:
            TypeError: If the images are no tensor, or not floating point.
            ValueError: If the images are not (B, C, H, W), with as many channels as the network was made for,
                hold NaN, or are so small that their features have a single pixel; or if ``attention_map`` has
                another shape, type or range. Values are looked at on the CPU alone, and not in a compiled or
                exported model: elsewhere every call would wait for the device.
        """
        if not torch.compiler.is_compiling():
            check_images(images)
            kind = MAPS.get(getattr(self.attention_branch, "map", ""))
            if attention_map is not None and kind is not None and kind.bounded:
                check_range(attention_map, "attention_map")
        features = self._features(images)
        attention_logits, computed_map = self.attention_branch(features)
        perception_logits = self.perception_branch(
            features, computed_map if attention_map is None else attention_map
        )
        return ABNOutput(attention_logits, perception_logits, computed_map)

    def _features(self, images: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            features: Tensor = self.feature_extractor(images)
            return features
        try:
            features = self.feature_extractor(images)
        except RuntimeError as error:
            weight = next(self.feature_extractor.parameters(), None)
            explain_failure(images, self.in_channels, None if weight is None else weight.dtype, error)
            raise
        return features

    def class_map(self, images: Tensor, classes: int | Tensor) -> Tensor:
        """Where the evidence is for a class, be it the predicted one or another.

        Runs the feature extractor and the attention branch once. The map that a call of the network returns
        shows all classes that the branch sees instead, each by its probability.

        Args:
            images: (B, C, H, W), as for a call of the network.
            classes: One class for all images, or one for each, (B,).

        Returns:
            (B, 1, h, w), from 0 to its maximum of 1; 0 everywhere if no pixel speaks for the class.

        Raises:
            TypeError: If the images are not floating point.
            ValueError: If the network's map is not made of evidence for classes, as those of official
                networks and of several tasks are not, or it has no such class.

        Example:
            >>> from abn import abn_resnet18
            >>> model = abn_resnet18(num_classes=10).eval()
            >>> model.class_map(torch.randn(2, 3, 64, 64), 7).shape
            torch.Size([2, 1, 4, 4])
        """
        branch: Any = self.attention_branch
        kind = MAPS.get(getattr(branch, "map", ""))
        if kind is None or kind.of_evidence is None or hasattr(branch, "tasks"):
            raise ValueError(
                f"the map of this {type(branch).__name__} ({getattr(kind, 'name', None)!r}) is not made of "
                "evidence for classes, expected an AttentionBranch with map='evidence'"
            )
        if not torch.compiler.is_compiling():
            check_images(images)
        count = branch.num_classes
        try:
            chosen = torch.as_tensor(classes, device=images.device)
        except (TypeError, ValueError, RuntimeError):
            chosen = torch.tensor(-1)
        fits = chosen.ndim == 0 or chosen.shape == images.shape[:1]
        whole = not chosen.is_floating_point() and not chosen.is_complex()
        if not fits or not whole or not bool(((chosen >= 0) & (chosen < count)).all()):
            raise ValueError(
                f"classes are {classes!r}, expected one number from 0 to {count - 1}, or one for each of "
                f"{len(images)} images"
            )
        responses = branch.responses(self._features(images))
        shares = F.one_hot(chosen.long().expand(len(images)), count).to(responses.dtype)
        attention_map: Tensor = branch.class_activation(responses, shares)
        return attention_map

    def group_matcher(self, coarse: bool = False) -> Callable[[str], tuple[int]]:
        """Depth of each parameter, from which timm makes layer-wise learning rates (``layer_decay=``).

        A submodule and the first number behind it count as one layer: ``layer3.4``, ``stages.2``. Both
        branches begin where the feature extractor ends, and all heads of the attention branch are as deep as
        the network is.

        Args:
            coarse: Takes each of the three parts for one layer.

        Returns:
            A function from the name of a parameter to ``(depth,)``.
        """

        def block(name: str) -> str:
            part, *path = name.split(".")
            numbered = next((i for i, step in enumerate(path) if step.isdigit()), 0)
            return ".".join([part] if coarse else [part, *path[: numbered + 1]])

        def blocks(part: str) -> list[str]:
            names = (name for name, _ in self.named_parameters() if name.startswith(part))
            return list(dict.fromkeys(map(block, names)))

        depths = {name: i for i, name in enumerate(blocks("feature_extractor"))}
        start = len(depths)
        for branch in ("attention_branch.stage", "perception_branch"):
            depths |= {name: start + i for i, name in enumerate(blocks(branch))}
        deepest = max(depths.values(), default=0)
        return lambda name: (depths.get(block(name), deepest),)

    def save_pretrained(self, directory: str | Path) -> None:
        """Saves the network where :func:`abn.hub.load` finds it: ``config.json`` and ``model.safetensors``.

        The first holds the names and keyword arguments that built the network, its ``preprocessing`` and its
        ``classes``, the second its weights: a layer that was replaced since does not come back. Nothing is
        pickled, and each file is there in full or not at all.

        Args:
            directory: Made if it does not exist.

        Raises:
            ValueError: If the network was not built by name, with ``wrap_backbone("timm/...")`` or a builder
                such as ``abn_resnet50``, if it was with an argument that JSON cannot hold, or if ``classes``
                are not one name for each class or task.
        """
        save(self, Path(directory))

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Saves the network in a repository of the Hugging Face Hub, made if it does not exist.

        Args:
            repo_id: ``"owner/name"``.
            private: Whether a new repository is private. Default: what the owner has set, mostly public.
            token: Default: that of ``hf auth login``.

        Returns:
            The address of the commit.

        Raises:
            ValueError: As in :meth:`save_pretrained`.
        """
        return push(self, repo_id, private, token)


class LogitsOnly(nn.Module):
    """An :class:`ABN` for tools that expect one tensor of logits: Captum, grad-cam, torch-cam, ...

    The network itself stays within reach as ``model``, for the layers that such a tool asks for.

    Args:
        model: Shared, not copied.

    Example:
        >>> from abn import abn_resnet18
        >>> view = LogitsOnly(abn_resnet18(num_classes=10).eval())
        >>> layer = view.model.perception_branch.tail.layer4  # what Grad-CAM wants to know
        >>> view(torch.randn(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """

    def __init__(self, model: ABN) -> None:
        super().__init__()
        self.model = model
        self.training = model.training  # Quantus, for one, refuses a network in training mode

    def forward(self, images: Tensor) -> Tensor:
        """Classifies the images: (B, C, H, W) to the ``perception_logits`` of :class:`ABNOutput`."""
        output: ABNOutput = self.model(images)
        return output.perception_logits
