"""``slimgpt report``: saved results and checkpoints as one HTML page that needs nothing else.

A page is sections of blocks (tables, charts, sentences) that Python makes and a template shows.
"""
