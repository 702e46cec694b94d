"""Runs the network on all images, while nobody paints, so that the page can sort them."""

import threading
from typing import Any

from abn.editor.session import Session

_PAUSE = 0.5
"""Seconds without a question after which the next image is predicted."""


class Predictions:
    """What the network says of each image, in the order of the images, as far as it is known.

    Args:
        session: The network and its images.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.known: list[dict[str, Any]] = []
        """For each image ``error``, or for classes ``prediction``, ``confidence`` and ``correct``."""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="predictions", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        for index in range(len(self.session.paths)):
            while (wait := _PAUSE - self.session.idle()) > 0:
                if self._stopped.wait(wait):
                    return
            if self._stopped.is_set():
                return
            self.known.append(self._predict(index))

    def _predict(self, index: int) -> dict[str, Any]:
        session = self.session
        try:
            logits = session.predict(index)
        except Exception as error:  # one image must not stop the others
            return {"error": str(error) or type(error).__name__}
        if not logits.isfinite().all():
            return {"error": "the network's answer is not a number"}
        if not session.of_classes:
            return {}
        confidence, number = logits.softmax(dim=0).max(dim=0)
        prediction, label = session.output_names[int(number)], session.label(index)
        correct = None if label is None else prediction == label
        return {"prediction": prediction, "confidence": confidence.item(), "correct": correct}
