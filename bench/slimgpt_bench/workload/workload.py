"""All that decides what a server is asked, and the requests that follow from it.

Requests are made when they are sent: a rate beyond the client must not fill its memory first.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from slimgpt_bench.workload.arrivals import Arrivals
from slimgpt_bench.workload.lengths import Lengths
from slimgpt_bench.workload.sources import Prompt, Samples, Source
from slimgpt_bench.workload.trace import Trace

_BLOCK = 256
_LENGTHS, _ARRIVALS, _ORDER = 1, 2, 3
"""What a random generator is for: each has one of its own, so that one does not move another."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, before it is sent.

    Attributes:
        index: of its level, from 0.
        at_s: seconds from the level's start to its scheduled send; None in a closed loop.
        prompt: text or token ids.
        prompt_tokens: exact for ids; None where only the server's tokenizer knows.
        output_tokens: to ask for.
    """

    index: int
    at_s: float | None
    prompt: Prompt
    prompt_tokens: int | None
    output_tokens: int


@dataclass(frozen=True)
class Workload:
    """What is asked, of which each level draws its own requests.

    Attributes:
        source: of prompts; a whole dataset, or texts of asked lengths.
        prompt: lengths; None for a dataset of whole prompts.
        output: lengths; None takes those of the dataset, else ``default_output``.
        trace: arrivals and lengths that were recorded; takes the place of both.
        seed: of every draw.
        about: what else decides it, for the digest and the document.
        tokenizer: counts answers of a dataset; None can't.
        default_output: tokens, where nothing tells how many.
    """

    source: Source | Samples
    prompt: Lengths | None
    output: Lengths | None
    seed: int
    trace: Trace | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Any = None
    default_output: int = 64

    def open(self, level: int, arrivals: Arrivals) -> Iterator[Request]:
        """Requests with the times of a process of arrivals, without end.

        Args:
            level: other levels draw other prompts and other times.
            arrivals: when they come.
        """
        seed = int(np.random.SeedSequence([self.seed, level, _ARRIVALS]).generate_state(1)[0])
        return self._requests(level, arrivals.times(seed))

    def closed(self, level: int) -> Iterator[Request]:
        """Requests without times, without end."""
        return self._requests(level, itertools.repeat(None))

    def replay(self, scale: float = 1.0) -> Iterator[Request]:
        """The trace's requests, at ``scale`` times its rate.

        Raises:
            ValueError: there is no trace.
        """
        if self.trace is None:
            raise ValueError("no trace")
        for index, row in enumerate(self.trace.rows):
            prompt = row.prompt or self._text(0, index, row.prompt_tokens or 1)
            yield self._request(index, row.at_s / scale, prompt, row.output_tokens)

    @property
    def longest_output(self) -> float:
        """Most tokens of an answer that lengths ask for."""
        return self.output.quantile(1) if self.output else self.default_output

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides the requests, but for rates and concurrency."""
        return hashlib.sha256(json.dumps(self._told(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """For a result."""
        return {**self._told(), "digest": self.digest}

    # -- requests -------------------------------------------------------------------------------

    def _requests(self, level: int, times: Iterator[float | None]) -> Iterator[Request]:
        made = (
            self._of_dataset(self.source, level)
            if isinstance(self.source, Samples)
            else self._of_lengths(level)
        )
        for index, (at, (prompt, output)) in enumerate(zip(times, made, strict=False)):
            yield self._request(index, at, prompt, output)

    def _of_lengths(self, level: int) -> Iterator[tuple[Prompt, int]]:
        prompts = self.prompt or Lengths("fixed", (1.0,))
        outputs = self._outputs(level)
        rng = np.random.default_rng([self.seed, level, _LENGTHS])
        for index in itertools.count():
            if index % _BLOCK == 0:
                lengths = prompts.draw(rng, _BLOCK).tolist()
            yield self._text(level, index, lengths[index % _BLOCK]), next(outputs)

    def _of_dataset(self, source: Samples, level: int) -> Iterator[tuple[Prompt, int]]:
        order = source.order(np.random.default_rng([self.seed, level, _ORDER]))
        outputs = self._outputs(level)
        for index in itertools.count():
            sample = source.samples[order[index % len(order)]]
            drawn = next(outputs)
            if self.output is None:
                drawn = sample.output_tokens or self._counted(sample.answer) or drawn
            yield sample.text, drawn

    def _outputs(self, level: int) -> Iterator[int]:
        lengths = self.output or Lengths("fixed", (float(self.default_output),))
        rng = np.random.default_rng([self.seed, level, _LENGTHS, _LENGTHS])
        while True:
            yield from lengths.draw(rng, _BLOCK).tolist()

    def _counted(self, answer: str) -> int:
        from slimgpt.tokenizer import encode

        return len(encode(self.tokenizer, answer)) if self.tokenizer and answer else 0

    def _text(self, level: int, index: int, tokens: int) -> Prompt:
        assert not isinstance(self.source, Samples)
        return self.source.prompt(np.random.default_rng([self.seed, level, 0, index]), tokens)

    def _request(self, index: int, at: float | None, prompt: Prompt, output: int) -> Request:
        exact = None if isinstance(prompt, str) else len(prompt)
        return Request(index, at, prompt, exact, output)

    def _told(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt.to_json() if self.prompt else None,
            "output_tokens": self.output.to_json() if self.output else None,
            "default_output_tokens": None if self.output else self.default_output,
            "trace": self.trace.digest if self.trace else None,
            "seed": self.seed,
            **self.about,
        }
