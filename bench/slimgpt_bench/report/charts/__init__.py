"""The drawings of a page, each from numbers to SVG."""
