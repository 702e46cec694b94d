"""Leaving in good order on Ctrl-C, and when a cluster takes the machine back."""

import signal
from types import FrameType


class StopRequest:
    """Notes SIGINT and SIGTERM, so that training can finish its step and save. A second Ctrl-C is at once."""

    def __init__(self) -> None:
        self.received = 0  # number of the signal
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


class Stopped(Exception):  # noqa: N818 - as StopIteration, not always an error
    """All processes end after the same step: one was asked to, or cannot go on."""


def wait_for_the_trainer(worker: int) -> None:
    """For processes that load images: signals to the whole group reach them too, but training has to finish.

    The training process ends them; if it does not, they end 30 seconds after SIGTERM.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(30))
