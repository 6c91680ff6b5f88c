"""Speed and memory of one model in a process of its own: ``python -m slimgpt.demo.measure DIR``.

Prints one JSON object. Memory is the high-water mark of the process beyond what it held with the
libraries imported, before the model was loaded.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

NEW_TOKENS = 96
PROMPT_TOKENS = 32
REPEATS = 5


def measure(directory: Path) -> dict[str, float]:
    """Decodes greedily with the KV cache.

    Returns:
        ``tokens_per_s``, the median of REPEATS after one warm-up, and ``peak_memory_bytes``.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationMixin  # noqa: F401 - imported early

    from slimgpt import modeling  # noqa: F401 - imported early
    from slimgpt.loading import load_model
    from slimgpt.resources import peak_rss_bytes

    # One thread: a model this small gains nothing from more, and a busy machine disturbs it less.
    torch.set_num_threads(1)
    before = peak_rss_bytes()
    model, meta = load_model(directory, device="cpu")
    prompt = torch.arange(1, 1 + PROMPT_TOKENS)[None] % meta.shape.vocab_size
    seconds = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        model.generate(
            prompt, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False
        )
        seconds.append(time.perf_counter() - started)
    return {
        "tokens_per_s": NEW_TOKENS / statistics.median(seconds[1:]),
        "peak_memory_bytes": peak_rss_bytes() - before,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(Path(sys.argv[1]))) + "\n")
