"""The sections of a page: each from what was gathered to blocks, or None without data."""
