"""Measurements of served models.

Engines in processes of their own, what they are asked, intervals, and what may be said of two
engines. Imports run one way: this package may import `slimgpt_serve`, `slimgpt_export` and
`slimgpt`, and none of them imports it.
"""
