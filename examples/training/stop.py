"""Ends a run in good order on Ctrl-C, and when a cluster takes the machine back."""

import signal
from types import FrameType


class StopRequest:
    """Notes SIGINT and SIGTERM, so training can finish its step and save. A second Ctrl-C ends at once."""

    def __init__(self) -> None:
        self.received = 0  # number of the signal
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


class Stopped(Exception):  # noqa: N818 - as StopIteration, not always an error
    """Raised in all processes after the same step, if one was asked to stop or cannot go on."""


def wait_for_the_trainer(worker: int) -> None:
    """Keeps a process that loads images alive on signals, because training has to finish its step.

    Signals to the whole process group reach the loading processes too. The training process ends them. If it
    does not, they end 30 seconds after SIGTERM.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(30))
