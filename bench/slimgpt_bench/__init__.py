"""Measurements of served models.

Will hold the engines under test, workloads, statistics, comparison, capacity planning and the
report. Imports run one way: this package may import `slimgpt_serve`, `slimgpt_export` and
`slimgpt`, and none of them imports it.
"""
