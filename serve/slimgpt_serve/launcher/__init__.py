"""``slimgpt serve``: the vLLM process, who may ask it, and its end."""
