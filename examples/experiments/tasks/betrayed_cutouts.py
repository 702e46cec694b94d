"""Cut-outs whose background betrays their kind in training: a network learns to look at the background.

In nine of ten training images the background is that of the kind. The others, and the test images, have any
background, which may be that of the kind by chance.
"""

import random

from experiments.tasks.cutouts import KINDS, composites_of, split_objects
from experiments.tasks.images import Task

BACKGROUNDS_OF = {
    "bird": "Aqua",
    "mammal": "GreenMeadow",
    "fruit": "Wood",
    "flower": "Dune",
    "vehicle": "Storm",
}
"""The background of each kind."""
BETRAYED = 0.9
"""Share of the training images whose background is chosen by their kind."""
PLACES = 3
"""Number of places at which each object is pasted."""


def betrayed_cutouts(size: int, betrayed: float = BETRAYED) -> Task:
    """Makes the task, with images of ``size`` × ``size`` pixels.

    Args:
        size: Height and width of the images.
        betrayed: Share of the training images whose background is chosen by the kind. The others, and the
            test images, have any background.
    """
    draw = random.Random(0)
    names = list(BACKGROUNDS_OF)
    train, test = split_objects({name: KINDS[name] for name in names}, draw)

    def any_background(label: int) -> str:
        return draw.choice(list(BACKGROUNDS_OF.values()))

    def betraying(label: int) -> str:
        return BACKGROUNDS_OF[names[label]] if draw.random() < betrayed else any_background(label)

    return Task(
        "betrayed cut-outs",
        names,
        composites_of(train, betraying, PLACES, size, draw),
        composites_of(test, any_background, PLACES, size, draw),
        (-1,),
    )
