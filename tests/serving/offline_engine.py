"""Runs vLLM's offline engine in its own environment: questions on stdin, answers in a file.

Not a test: tests/serving starts it with the Python of the vLLM environment. Engines run one after
the other in this process, which saves most of the time that starting one takes.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.lora.request import LoRARequest


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """One engine, all prompts at once; what it said, or why it would not start."""
    started = time.monotonic()
    try:
        llm = LLM(**question["options"])
    except Exception as reason:  # noqa: BLE001 - vLLM refuses in many ways; the test says which
        return {"refused": f"{type(reason).__name__}: {reason}"}
    ready = time.monotonic() - started
    params = SamplingParams(
        temperature=0,
        max_tokens=question["max_tokens"],
        logprobs=1,
        prompt_logprobs=0 if question.get("prompt_logprobs", True) else None,
        ignore_eos=True,
        detokenize=False,
    )
    adapter = question.get("adapter")
    outputs = llm.generate(
        [{"prompt_token_ids": ids} for ids in question["prompts"]],
        params,
        use_tqdm=False,
        lora_request=LoRARequest("adapter", 1, adapter) if adapter else None,
    )
    cache = llm.llm_engine.vllm_config.cache_config
    found = {
        "start_s": ready,
        "kv_tokens": (cache.num_gpu_blocks or 0) * cache.block_size,
        "answers": [_said(output) for output in outputs],
        "metrics": _metrics(llm) if not question["options"].get("disable_log_stats", True) else {},
    }
    llm.llm_engine.engine_core.shutdown()
    return found


def _said(output: Any) -> dict[str, Any]:
    said = output.outputs[0]
    prompt = output.prompt_logprobs or []
    return {
        "ids": list(said.token_ids),
        "logprobs": [
            step[i].logprob for step, i in zip(said.logprobs, said.token_ids, strict=True)
        ],
        "prompt_logprobs": [
            step[i].logprob
            for step, i in zip(prompt[1:], output.prompt_token_ids[1:], strict=False)
        ],
    }


def _metrics(llm: LLM) -> dict[str, float]:
    return {m.name: m.value for m in llm.get_metrics() if hasattr(m, "value")}


if __name__ == "__main__":
    answers = []
    for asked in json.load(sys.stdin):
        answers.append(answer(asked))
        gc.collect()
        cleanup_dist_env_and_memory()
    Path(sys.argv[1]).write_text(json.dumps(answers))
