"""How good networks of several tasks and their maps are; writes docs/multitask.md."""
