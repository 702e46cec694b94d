"""The method of the paper: the attention branch, the perception branch, and their building blocks.

- :mod:`abn.modules.attention`: the attention branch, with new heads or with a backbone's own classifier.
- :mod:`abn.modules.perception`: the perception branch.
- :mod:`abn.modules.multitask`: both branches for several tasks.
- :mod:`abn.modules.maps`: the kinds of attention maps, with their formulas.
- :mod:`abn.modules.mechanisms`: how a map weights the features.
- :mod:`abn.modules.pooled_classifier`, :mod:`abn.modules.linear`: a classifier's evidence at each pixel.
- :mod:`abn.modules.features`: what the feature extractor hands to both branches.
- :mod:`abn.modules.inputs`: errors for numbers, images, features and maps that do not fit.
"""
