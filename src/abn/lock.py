"""A lock for code that changes the state of the whole process for a moment."""

import threading

PROCESS_LOCK = threading.RLock()
"""Held by one thread at a time, while it rehearses or builds a network, or reads a checkpoint.

PyTorch keeps the default device, the dispatch modes and the types allowed in a checkpoint for the whole
process. Python does so with the filters of warnings. Two threads that each set and restore such a state can
leave it changed. A network that only runs needs no lock.
"""
