"""What a map costs in time and memory; writes docs/performance.md."""
