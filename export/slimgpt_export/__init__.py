"""Deployment formats of a pruned checkpoint.

Will hold the ONNX graph builder, the ONNX Runtime GenAI configuration, the stock and the quantised
layout, and the check that each agrees with the checkpoint that it was made from. Imports run one
way: this package may import `slimgpt`, and neither `slimgpt_serve` nor `slimgpt_bench`.
"""
