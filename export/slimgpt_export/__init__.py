"""Deployment formats of a pruned checkpoint.

The stock layout (`layout.py`, `padding.py`, `stock.py`), the quantised one (`quantize*.py`), and
the check that an export is the function that it was made from (`parity.py`). Imports run one way:
this package may import `slimgpt`, and neither `slimgpt_serve` nor `slimgpt_bench`.
"""
