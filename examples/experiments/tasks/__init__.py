"""The images that the experiments learn from, and are measured on."""
