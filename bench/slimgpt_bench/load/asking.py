"""What requests look like on the wire, and prompts that fit the server's endpoint and tokenizer."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from slimgpt.errors import EnvironmentProblem, UsageError
from slimgpt_bench.load.client import Client
from slimgpt_bench.load.options import PATHS, LoadOptions
from slimgpt_bench.load.record import Record
from slimgpt_bench.load.target import Target
from slimgpt_bench.workload.making import Serves, make_workload
from slimgpt_bench.workload.sources import Words, words
from slimgpt_bench.workload.workload import Request, Workload

_PROBE_LEVEL = 2**31
_FEW_WORDS, _MANY_WORDS = 8, 56
_OK = 200
_WRONG = (400, 401, 403, 404, 405, 413, 415, 422)
"""What a server answers to a request that it will never take."""


class Asking:
    """Sends requests of a workload to a server.

    Args:
        client: connected to it.
        target: the server.
        options: of the run.
    """

    def __init__(self, client: Client, target: Target, options: LoadOptions) -> None:
        self._client, self._target, self._options = client, target, options
        self._path = PATHS[options.endpoint]

    async def send(self, request: Request, record: Record) -> None:
        """Sends one and writes down what comes of it."""
        await self._client.stream(self._path, self._body(request), record)

    def _body(self, request: Request) -> dict[str, Any]:
        options = self._options
        body: dict[str, Any] = {
            "model": self._target.model,
            "max_tokens": request.output_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if options.ignore_eos:
            body["ignore_eos"] = True
        return body | _asked(options, request.prompt) | dict(options.extra_body)

    async def workload(self, serves: Serves) -> Workload:
        """What will be asked; the server is asked how it counts words where nobody else knows.

        Raises:
            UsageError: prompts can't be made, or are longer than the model's context.
        """
        workload = make_workload(self._options, serves, None)
        if workload is None:
            workload = make_workload(self._options, serves, await self._words())
        assert workload
        self._require_context(workload)
        return workload

    async def _words(self) -> Words:
        """Tokens of a word and of what the server adds, from two requests."""
        rng = np.random.default_rng(self._options.seed)
        few = await self._prompt_tokens(words(rng, _FEW_WORDS))
        many = await self._prompt_tokens(words(rng, _MANY_WORDS))
        if not few or not many or many <= few:
            return Words()
        each = (many - few) / (_MANY_WORDS - _FEW_WORDS)
        return Words(round(each, 4), round(max(0.0, few - each * _FEW_WORDS), 2))

    async def _prompt_tokens(self, text: str) -> int | None:
        body = {"model": self._target.model, "max_tokens": 1, **_asked(self._options, text)}
        try:
            status, answer = await self._client.post(self._path, body)
            found = json.loads(answer)["usage"]["prompt_tokens"] if status == _OK else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if type(found) is int else None

    def _require_context(self, workload: Workload) -> None:
        context = self._target.context
        if context is None or workload.prompt is None or workload.trace:
            return
        prompt, answer = workload.prompt.quantile(1), workload.longest_output
        if prompt + answer > context:
            raise UsageError(
                f"--prompt up to {prompt:.0f} and --output up to {answer:.0f} are beyond the "
                f"{context} tokens that {self._target.model} takes: give shorter ones (a "
                "distribution may end in ,LOW,HIGH)"
            )

    async def probe(self, workload: Workload) -> None:
        """Sends one request that does not count: to find out what would fail every time.

        Raises:
            UsageError: the server refuses such requests.
            EnvironmentProblem: it does not answer.
        """
        requests = workload.replay() if workload.trace else workload.closed(_PROBE_LEVEL)
        request = next(requests)
        record = Record(request.index, "warmup", request.prompt_tokens, request.output_tokens, 0.0)
        await self.send(request, record)
        if record.failure == "http_4xx" and record.status in _WRONG:
            raise UsageError(f"{self._target.url} refuses such requests: {record.detail}")
        if record.failure == "connect":
            raise EnvironmentProblem(f"{self._target.url} does not answer: {record.detail}")


def _asked(options: LoadOptions, prompt: Any) -> dict[str, Any]:
    if options.endpoint == "chat":
        return {"messages": [{"role": "user", "content": prompt}]}
    return {"prompt": prompt}
