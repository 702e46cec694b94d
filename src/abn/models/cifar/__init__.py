"""The networks for images of 32 × 32 pixels (CIFAR): a module for each family, and one for shared code."""
