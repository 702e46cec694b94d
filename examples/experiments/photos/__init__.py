"""What photos.py consists of."""
