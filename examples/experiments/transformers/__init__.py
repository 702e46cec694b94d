"""Vision transformers with and without an attention branch."""
