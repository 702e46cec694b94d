"""What pretrained networks and their maps are worth on photographs; writes docs/photos.md."""
