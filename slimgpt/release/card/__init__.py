"""The model card: README.md of a checkpoint, and the picture in it."""
