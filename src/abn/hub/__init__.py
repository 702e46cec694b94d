"""Loading and converting networks: published weights, files, directories, addresses, the Hugging Face Hub.

- :mod:`abn.hub.loading`: the public functions :func:`load` and :func:`available`.
- :mod:`abn.hub.conversion`: the public function :func:`convert`.
- :mod:`abn.hub.published`: the table of published weights.
- :mod:`abn.hub.sources`: finds the file behind a name, a path or an address.
- :mod:`abn.hub.download`: fetches a file into the cache and checks its digest.
- :mod:`abn.hub.configuration`: reads from a file how the network is built, and its weights.
- :mod:`abn.hub.building`: builds the network, and compares its weights with the weights in the file.
- :mod:`abn.hub.bounds`: limits on what a configuration may ask for.
- :mod:`abn.hub.official`, :mod:`abn.hub.layouts`: the names of weights in the official code.

A file is checked before its weights are used: its digest (``download``); that it holds nothing but tensors
(:mod:`abn.checkpoint`); that a file of the table holds the network that the table names (``sources``); the
size of the network that it asks for (``bounds``); and the name and shape of every weight (``building``).
"""

from abn.checkpoint import CheckpointError
from abn.hub.conversion import convert
from abn.hub.download import DownloadError
from abn.hub.loading import available, load

__all__ = ["CheckpointError", "DownloadError", "available", "convert", "load"]
