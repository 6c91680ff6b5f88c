"""Healing a pruned model: LoRA on every projection, merged into plain weights."""
