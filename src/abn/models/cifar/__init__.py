"""The networks for images of 32 × 32 pixels (CIFAR): a file for each family, and what they share."""
