"""What makes an attention map point at the object; writes docs/explanations.md."""
