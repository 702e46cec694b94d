"""From any backbone to an Attention Branch Network.

In the order in which :func:`abn.wrap_backbone` uses them:

- :mod:`abn.retrofit.wrap`: the public functions, and the defaults for pretrained and for new backbones.
- :mod:`abn.retrofit.backbones`, :mod:`abn.retrofit.backbone_weights`: builds or copies the backbone, and
  loads weights from a file.
- :mod:`abn.retrofit.last_layer`: finds the backbone's last layer, and replaces it for other classes.
- :mod:`abn.retrofit.cut`: cuts the backbone into parts.
- :mod:`abn.retrofit.splits`: decides where it is cut.
- :mod:`abn.retrofit.tracing`, on :mod:`abn.retrofit.shallow_tracer`: the graph of the backbone's forward.
- :mod:`abn.retrofit.verify`, on :mod:`abn.retrofit.operations`: compares the graph with the forward.
- :mod:`abn.retrofit.stages`, with :mod:`abn.retrofit.dense` and :mod:`abn.retrofit.stride_one`: the stage of
  the attention branch.
- :mod:`abn.retrofit.read_classifier`: reads the backbone's classifier off its last layers.
- :mod:`abn.retrofit.branches`: builds the attention branch.

All of them use :mod:`abn.retrofit.dry_run`, which runs a copy without weights to learn shapes.
"""
