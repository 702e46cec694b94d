"""Experiments on what makes an attention map point at the object, for explanations.py."""
