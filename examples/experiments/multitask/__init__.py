"""Experiments on several tasks, for multitask.py."""
