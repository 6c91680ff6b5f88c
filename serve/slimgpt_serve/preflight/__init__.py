"""Whether a model can be served on this machine, and how much of it. No torch, no vLLM."""
