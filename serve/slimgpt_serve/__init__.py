"""Pruned checkpoints in vLLM: the plugin, and the server around it.

The modules here are what vLLM's own processes load; `preflight` decides what can be served, and
`launcher` runs it. Imports run one way: this package may import `slimgpt`, and neither
`slimgpt_export` nor `slimgpt_bench`.
"""
