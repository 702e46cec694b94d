"""What examples/benchmark.py measures, how, and the page it writes."""
