"""The studies behind the pages of figures in docs/. The page docs/X.md is written by experiments/X."""
