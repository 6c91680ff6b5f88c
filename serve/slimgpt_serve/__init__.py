"""Engines that serve a pruned checkpoint.

Will hold the vLLM plugin, the launcher of the OpenAI-compatible server and the ONNX Runtime
generator. Imports run one way: this package may import `slimgpt`, and neither `slimgpt_export` nor
`slimgpt_bench`.
"""
