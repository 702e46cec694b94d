"""A page in the browser to paint attention maps on, and to see the answer change: ``python -m abn edit``.

- :mod:`abn.editor.masks`: masks of objects, from a folder or in COCO's format, from which an edit can start.
- :mod:`abn.editor.answers`: compares the network's answers before and after an edit.
- :mod:`abn.editor.session`: a network, its images and their edits. Runs the network on edited maps.
- :mod:`abn.editor.background`: runs the network on all images, while nobody paints.
- :mod:`abn.editor.requests`: checks who asks, and with which body.
- :mod:`abn.editor.server`: the addresses of the page, and what each answers.
- ``static/``: the page. ``page.js`` is its entry, ``brush.js`` the arithmetic of the brush.
"""
