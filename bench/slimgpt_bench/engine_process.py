"""One vLLM engine in a process of its own: ``python -m slimgpt_bench.engine_process PARENT``.

The only module here that imports vLLM; a latency worker holds a :class:`Served` too. One JSON
object a line comes in on standard input, the first with the options of ``LLM``; one a line goes out
where standard output was, and all that vLLM prints goes to standard error. The process ends when
its input does.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from slimgpt_bench.child import end_with_parent

_DRAFTS = "vllm:spec_decode_num_drafts"
_DRAFTED = "vllm:spec_decode_num_draft_tokens"
_ACCEPTED = "vllm:spec_decode_num_accepted_tokens"
_PER_POSITION = "vllm:spec_decode_num_accepted_tokens_per_pos"


class Served:
    """An engine and what it can be asked.

    Attributes:
        llm: vLLM's offline engine.
        start_s: seconds that it took to start, imports left out.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        from vllm import LLM

        started = time.monotonic()
        self.llm = LLM(**options)
        self.start_s = time.monotonic() - started
        self._numbers = count()

    @staticmethod
    def load() -> None:
        """Imports what an engine needs, so that what that takes can be told from the model."""
        from vllm import LLM  # noqa: F401

    def describe(self) -> dict[str, Any]:
        """What started, on what."""
        import torch
        import vllm
        from vllm.platforms import current_platform

        cache = self.llm.llm_engine.vllm_config.cache_config
        return {
            "start_s": self.start_s,
            "vllm": vllm.__version__,
            "torch": torch.__version__,
            "device": current_platform.get_device_name(),
            "threads": torch.get_num_threads(),
            "kv_tokens": (cache.num_gpu_blocks or 0) * cache.block_size,
            "block_tokens": cache.block_size,
        }

    def sample(self, starts: Sequence[Sequence[int]], length: int, seed: int) -> list[list[int]]:
        """Texts drawn from the model at temperature 1, one for each beginning."""
        from vllm import SamplingParams

        # A seed each, so that texts that begin alike differ.
        wishes = [
            SamplingParams(
                max_tokens=length - len(ids), seed=seed + i, ignore_eos=True, detokenize=False
            )
            for i, ids in enumerate(starts)
        ]
        said = self.llm.generate(_prompts(starts), wishes, use_tqdm=False)
        return [[*ids, *x.outputs[0].token_ids] for ids, x in zip(starts, said, strict=True)]

    def generate(
        self, prompts: Sequence[Sequence[int]], tokens: int, batch: int, top: int | None
    ) -> list[dict[str, Any]]:
        """Greedy answers of equal length, batch after batch, and what each batch took."""
        return [
            self._batch(prompts[i : i + batch], tokens, top) for i in range(0, len(prompts), batch)
        ]

    def _batch(
        self, prompts: Sequence[Sequence[int]], tokens: int, top: int | None
    ) -> dict[str, Any]:
        from vllm import SamplingParams

        wish = SamplingParams(
            temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False, logprobs=top
        )
        before = self._counters()
        said = self.llm.generate(_prompts(prompts), wish, use_tqdm=False)
        after = self._counters()
        times = [x.metrics for x in said]
        first = min(x.first_token_ts for x in times)
        answers = [x.outputs[0] for x in said]
        return {
            "ids": [list(x.token_ids) for x in answers],
            "top": [_top(x.logprobs) for x in answers] if top else None,
            "decode_s": max(x.last_token_ts for x in times) - first,
            "decode_tokens": sum(len(x.token_ids) - 1 for x in answers),
            "counters": [x - y for x, y in zip(after, before, strict=True)],
        }

    def timed(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[float]]:
        """Greedy answers, stepped: seconds from the hand-over to each token of each prompt."""
        moments: dict[str, list[float]] = {}
        started = time.perf_counter()
        for step in self._steps(prompts, tokens):
            now = time.perf_counter() - started
            for name, answer in step:
                # Tokens that one step gives together have one moment.
                moments.setdefault(name, []).extend([now] * len(answer.token_ids))
        return list(moments.values())

    def finite(self, prompts: Sequence[Sequence[int]], tokens: int) -> bool:
        """Whether there is a likeliest token at every step, whose log-probability is a number.

        It is none where any logit is NaN or positive infinity.
        """
        told = [
            all(math.isfinite(entry.logprob) for entry in entries.values())
            for step in self._steps(prompts, tokens, logprobs=1)
            for _, answer in step
            for entries in answer.logprobs or ()
        ]
        return len(told) == len(prompts) * tokens and all(told)

    def _steps(
        self, prompts: Sequence[Sequence[int]], tokens: int, logprobs: int | None = None
    ) -> Iterator[list[tuple[str, Any]]]:
        """Runs prompts together; of each step of the engine, what is new of each prompt."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        engine = self.llm.llm_engine
        for prompt in _prompts(prompts):
            wish = SamplingParams(
                temperature=0,
                max_tokens=tokens,
                ignore_eos=True,
                detokenize=False,
                logprobs=logprobs,
                output_kind=RequestOutputKind.DELTA,
            )
            engine.add_request(str(next(self._numbers)), prompt, wish)
        while engine.has_unfinished_requests():
            yield [(x.request_id, x.outputs[0]) for x in engine.step()]

    def worker(self) -> Any:
        """vLLM's worker, which holds the model and the KV caches in this process."""
        [found] = self.llm.collective_rpc(_itself)
        return found

    def _counters(self) -> list[int]:
        """Drafts, drafted and accepted tokens, and accepted ones by position, since the start."""
        found: dict[str, Any] = {x.name: x for x in self.llm.get_metrics()}
        if _DRAFTS not in found:
            return [0, 0, 0]
        totals = [int(found[name].value) for name in (_DRAFTS, _DRAFTED, _ACCEPTED)]
        return totals + [int(x) for x in found[_PER_POSITION].values]

    def score(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probabilities of all tokens but the first, read in one piece instead of written."""
        from vllm import SamplingParams

        wish = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        said = self.llm.generate(_prompts(texts), wish, use_tqdm=False)
        return [
            [
                step[i].logprob
                for step, i in zip((x.prompt_logprobs or [])[1:], ids[1:], strict=True)
            ]
            for x, ids in zip(said, texts, strict=True)
        ]


def _itself(worker: Any) -> Any:
    return worker


def _prompts(ids: Sequence[Sequence[int]]) -> Any:
    return [{"prompt_token_ids": list(x)} for x in ids]


def _top(steps: Any) -> list[dict[str, float]]:
    return [{str(i): entry.logprob for i, entry in step.items()} for step in steps]


def main() -> None:
    """Starts the engine of the first line, then answers line by line."""
    end_with_parent(int(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(value: Any) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    served = Served(json.loads(sys.stdin.readline()))
    answer(served.describe())
    for line in sys.stdin:
        asked = json.loads(line)
        answer(getattr(served, asked.pop("do"))(**asked))


if __name__ == "__main__":
    main()
