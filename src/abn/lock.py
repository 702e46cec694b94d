"""A lock around what changes the state of the whole process for a moment."""

import threading

PROCESS_LOCK = threading.RLock()
"""Held while a network is rehearsed or a file is unpacked: one thread at a time.

PyTorch keeps the default device, the dispatch modes and the types allowed in a checkpoint for the whole
process, as Python keeps the filters of warnings. Two threads that each set and restore one of them can leave
it changed. A network that only runs needs no lock.
"""
