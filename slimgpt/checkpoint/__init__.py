"""Reading and writing checkpoint directories: lazily, checked against hostile input, atomically."""
