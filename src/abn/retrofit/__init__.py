"""Turns any backbone into an Attention Branch Network.

The modules, in the order in which :func:`abn.wrap_backbone` uses them:

- :mod:`abn.retrofit.wrap`: the public functions, and the defaults for pretrained and for new backbones.
- :mod:`abn.retrofit.backbones`, :mod:`abn.retrofit.backbone_weights`: build or copy the backbone, and load
  its weights from a file.
- :mod:`abn.retrofit.last_layer`: finds the layer that makes the logits, and replaces it for other classes.
- :mod:`abn.retrofit.cut`: cuts the backbone into parts, which :mod:`abn.retrofit.packing` lets hand features
  on, and lists its :mod:`abn.retrofit.splits`.
- :mod:`abn.retrofit.chain`, with :mod:`abn.retrofit.cut_points`: finds the feature maps at which the backbone
  can be cut, and the default.
- :mod:`abn.retrofit.origins`: finds out which token of a transformer stands for which patch of the image.
- :mod:`abn.retrofit.layouts`: the ways in which a backbone keeps a feature map, such as tokens.
- :mod:`abn.retrofit.tracing`, with :mod:`abn.retrofit.shallow_tracer`: traces the backbone's forward.
- :mod:`abn.retrofit.verify`, with :mod:`abn.retrofit.operations`: compares the traced graph with the forward.
- :mod:`abn.retrofit.stages`, with :mod:`abn.retrofit.dense` and :mod:`abn.retrofit.stride_one`: makes the
  stage of the attention branch.
- :mod:`abn.retrofit.read_classifier`: reads the backbone's classifier off its last layers.
- :mod:`abn.retrofit.branches`: builds the attention branch.

Most of them use :mod:`abn.retrofit.dry_run`, which runs a copy of a network without weights to learn
shapes. :mod:`abn.retrofit.errors` has the errors, :mod:`abn.retrofit.tokens` those of networks of tokens that
cannot be cut. :mod:`abn.retrofit.graphs` runs parts of graphs.
"""
