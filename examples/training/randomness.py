"""Random numbers without a state that would have to be saved."""

import hashlib
import random

import numpy as np
import torch


def seed_of(*place: object) -> int:
    """A number that depends on a place in the training alone, such as ``("order", seed, epoch)``."""
    return int.from_bytes(hashlib.sha256(repr(place).encode()).digest()[:4], "big")


def seed_everything(*place: object) -> None:
    """Makes the random numbers of Python, NumPy and PyTorch, from here on, a function of the place alone.

    So a run can be taken up anywhere, by any number of processes, as if it had never been interrupted.
    """
    seed = seed_of(*place)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
