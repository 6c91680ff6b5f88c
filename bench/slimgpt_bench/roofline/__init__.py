"""What the widths of a model allow at best: bytes, FLOPs and tile waste, layer by layer."""
