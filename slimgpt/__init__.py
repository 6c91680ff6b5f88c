"""SlimGPT: structured pruning of LLaMA-family language models, from checkpoint to deployment.

Importing this package costs nothing and makes ``AutoModelForCausalLM.from_pretrained`` load
pruned checkpoints: the classes are registered when transformers' auto classes are imported.
"""

from __future__ import annotations

from slimgpt.autoload import install as _install

__version__ = "0.1.0"

_install()
