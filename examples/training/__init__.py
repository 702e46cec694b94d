"""The parts of train.py, one idea per file."""
