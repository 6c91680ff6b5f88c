"""One engine started as a server starts it: its time, memory, KV capacity, speed and answers."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slimgpt.shape import ModelShape
from slimgpt_bench.engine import Engine
from slimgpt_bench.equality import TOP, Equality, Reference, compare, noise, tie_limit

GIB = 2**30
_SAID = {
    "weights_gib": r"Model loading took ([\d.]+)",
    "kv_cache_gib": r"(?:Available KV cache memory: |Explicitly set \()([\d.]+)",
    "attention_backend": r"Using (?:AttentionBackendEnum\.)?(\w+) (?:attention )?backend",
    "flash_attention_version": r"Using FlashAttention version (\d+)",
    "graphs": r"Graph capturing finished in (.+)",
    "compile_s": r"torch\.compile (?:and initial profiling run )?took ([\d.]+)",
}
"""What vLLM's log tells, in 0.26 to 0.33; what it does not say is left out."""


def probe(
    name: str,
    model: Path,
    options: Mapping[str, Any],
    environment: Mapping[str, str],
    *,
    vocabulary: int,
    batches: Sequence[int],
    lengths: tuple[int, int],
) -> dict[str, Any]:
    """Starts an engine, asks it for greedy answers, and times its decoding at several batches.

    Args:
        name: for messages.
        model: checkpoint directory.
        options: of ``LLM``.
        environment: of the process.
        vocabulary: prompts are random tokens of it.
        batches: texts that run together.
        lengths: tokens of a prompt and of an answer.
    """
    prompt_tokens, new_tokens = lengths
    prompts = random_prompts(max(batches), prompt_tokens, vocabulary)
    checked = prompts[:8]
    wish = {
        "model": str(model),
        "disable_log_stats": False,
        "enable_prefix_caching": False,
        "distributed_executor_backend": "uni",
        "skip_tokenizer_init": True,
        **options,
    }
    started = time.monotonic()
    with Engine(name, wish, environment) as engine:
        about = engine.ready()
        ready = time.monotonic() - started
        said = engine.generate(checked, 32, len(checked), top=TOP)[0]
        read = engine.score([[*p, *ids] for p, ids in zip(checked, said["ids"], strict=True)])
        written = [
            [step[str(i)] for i, step in zip(ids, top, strict=True)]
            for ids, top in zip(said["ids"], said["top"], strict=True)
        ]
        return {
            **about,
            "start_with_imports_s": ready,
            **log_facts(engine.log()),
            "answers": {"ids": said["ids"], "top": said["top"]},
            "noise": noise(written, [x[-32:] for x in read]),
            "decode": [_decode(engine, prompts[:n], new_tokens) for n in batches],
        }


def _decode(engine: Engine, prompts: Sequence[Sequence[int]], tokens: int) -> dict[str, Any]:
    """Speed of one batch, the second of two runs."""
    for _ in range(2):
        (ran,) = engine.generate(prompts, tokens, len(prompts))
    return {
        "batch": len(prompts),
        "decode_tokens_per_s": ran["decode_tokens"] / ran["decode_s"],
        "step_s": ran["decode_s"] / (tokens - 1),
    }


def random_prompts(count: int, length: int, vocabulary: int) -> list[list[int]]:
    """The same for every model: random tokens, none of which is special."""
    draw = random.Random(0)  # noqa: S311, RUF100 - nothing secret
    return [[draw.randrange(3, vocabulary) for _ in range(length)] for _ in range(count)]


def log_facts(lines: Sequence[str]) -> dict[str, str]:
    """What vLLM's log says of the engine, as it says it."""
    text = "\n".join(lines)
    found = {name: re.search(pattern, text) for name, pattern in _SAID.items()}
    return {name: match[1] for name, match in found.items() if match}


def arithmetic(shape: ModelShape, value_bytes: int, kv_cache_gib: float | None) -> dict[str, Any]:
    """What the shape says beside what vLLM says.

    Args:
        shape: of the model.
        value_bytes: of weights and KV cache.
        kv_cache_gib: that vLLM had left for its KV cache, where its log says.
    """
    token = shape.kv_bytes_per_token(value_bytes)
    return {
        "parameters": shape.parameters,
        "weights_gib": shape.weight_bytes(value_bytes) / GIB,
        "kv_bytes_per_token": token,
        "kv_tokens": int(kv_cache_gib * GIB) // token if kv_cache_gib is not None else None,
    }


def same_answers(one: Mapping[str, Any], other: Mapping[str, Any], dtype: str) -> Equality:
    """Greedy tokens of two probes of one model, with the first as the reference."""
    references = [
        Reference(tuple(ids), tuple({int(i): x for i, x in step.items()} for step in top))
        for ids, top in zip(one["answers"]["ids"], one["answers"]["top"], strict=True)
    ]
    limit = tie_limit(dtype, max(one["noise"], other["noise"]))
    return compare(references, [other["answers"]["ids"]], limit)
