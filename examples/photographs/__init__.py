"""What pretrained.py consists of."""
