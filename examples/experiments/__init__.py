"""The studies behind the pages of figures in docs/: a page docs/X.md is written by experiments/X."""
