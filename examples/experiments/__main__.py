"""Runs an experiment, which writes a page of the documentation.

    python examples/experiments                    # lists them
    python examples/experiments photos --jobs 2
    python examples/experiments photos --help

Complete runs are logged in runs/, and are not run again.
"""

import importlib
import sys
from pathlib import Path

EXPERIMENTS = {
    "coverage": ("experiments.coverage", "wraps every classifier of torchvision and timm", "hours"),
    "editing": ("experiments.editing.main", "networks corrected by edited maps", "half an hour"),
    "editor": ("experiments.editor.main", "how soon the page for edited maps answers", "10 minutes"),
    "explanations": ("experiments.explanations.main", "maps of digits, and of other methods", "2 hours"),
    "multitask": ("experiments.multitask.main", "networks of several tasks", "1 hour"),
    "performance": ("experiments.performance.main", "time and memory", "2 hours"),
    "photos": ("experiments.photos.main", "pretrained networks and photographs", "2 hours"),
    "quantisation": ("experiments.quantisation", "agreement in 8 bits", "3 minutes"),
    "results": ("experiments.results", "digits with and without an attention branch", "30 minutes"),
    "stages": ("experiments.stages", "other stages of the attention branch", "20 minutes"),
    "transformers": ("experiments.transformers.main", "small vision transformers", "2 hours"),
}
"""Of each experiment: its module, what it measures, and its time on two CPU cores."""


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in EXPERIMENTS:
        print(__doc__)
        for known, (_, measures, duration) in EXPERIMENTS.items():
            print(f"    {known:14} docs/{known}.md: {measures}; {duration}")
        sys.exit(0 if name in ("", "--help", "-h") else f"\nthere is no experiment {name!r}")
    module, *_ = EXPERIMENTS[name]
    sys.argv[:2] = [f"examples/experiments {name}"]
    importlib.import_module(module).main()


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # examples/, where the modules are found
    main()
