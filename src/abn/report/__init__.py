"""Explains all images of a folder: pictures, a table and a page in one file, for ``python -m abn explain``.

- :mod:`abn.report.folder`: runs the network on the images, and writes everything.
- :mod:`abn.report.pictures`: draws the picture of an image.
- :mod:`abn.report.entries`: what is kept of each image: in a table, and to go on after an interruption.
- :mod:`abn.report.page`: the page, ``report.html``, which needs no server.
"""
