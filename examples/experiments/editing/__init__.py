"""How many edited maps correct a network that looks at the wrong thing; writes docs/editing.md."""
