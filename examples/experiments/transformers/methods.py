"""Maps that other methods make of a plain vision transformer of timm."""

import torch
from timm.models import VisionTransformer
from timm.utils import AttentionExtract
from torch import Tensor
from torchcam.methods import GradCAM

BATCH = 128


def to_map(model: VisionTransformer, values: Tensor) -> Tensor:
    """Takes tokens (B, N, C) to a map (B, C, h, w), as torch-cam asks for. Leaves out the class token."""
    height, width = model.patch_embed.grid_size
    return values[:, model.num_prefix_tokens :].transpose(1, 2).unflatten(2, (height, width))


def grad_cam(model: VisionTransformer, images: Tensor, classes: Tensor) -> Tensor:
    """Grad-CAM by torch-cam, from the first norm of the last block, as is usual. Maps (B, 1, h, w)."""
    parts = []
    layer = f"blocks.{len(model.blocks) - 1}.norm1"
    with GradCAM(model, layer, reshape_transform=lambda values: to_map(model, values)) as explain:
        for batch, labels in zip(images.split(BATCH), classes.split(BATCH), strict=True):
            parts.append(explain(labels.tolist(), model(batch))[0].unsqueeze(1).detach())
    return torch.cat(parts)


@torch.no_grad()
def attention_rollout(model: VisionTransformer, images: Tensor) -> Tensor:
    """Follows attention from block to block (Abnar and Zuidema, ACL 2020). Maps (B, 1, h, w).

    The heads are averaged, and half of each token is what the block leaves unchanged. The map is what the
    class token has from each pixel; without a class token, what the mean of all tokens has.
    """
    for block in model.blocks:
        block.attn.fused_attn = False  # which computes no attention that could be read
    extract = AttentionExtract(model.eval(), method="hook")
    maps = []
    for batch in images.split(BATCH):
        rollout = torch.eye(model.patch_embed.num_patches + model.num_prefix_tokens)
        for attention in extract(batch).values():
            rollout = (attention.mean(dim=1) + torch.eye(attention.shape[-1])) / 2 @ rollout
        token = rollout[:, 0] if model.num_prefix_tokens else rollout.mean(dim=1)
        maps.append(to_map(model, token[..., None]))
    return torch.cat(maps)


@torch.no_grad()
def class_token_evidence(model: VisionTransformer, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Applies the classifier, which reads the class token, to the patch tokens.

    Returns:
        The mean of their scores (B, K), and the evidence for the classes (B,), as maps (B, 1, h, w).
    """
    tokens = torch.cat([model.forward_features(batch) for batch in images.split(BATCH)])
    evidence = to_map(model, model.head(tokens))
    chosen = evidence[torch.arange(len(classes)), classes][:, None]
    return evidence.mean(dim=(2, 3)), chosen.clamp(min=0)
