"""What train.py needs beside it, one idea per file."""
