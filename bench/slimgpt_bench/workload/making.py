"""From options to a workload: which prompts can be made of what is known of the served model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from slimgpt.errors import UsageError
from slimgpt_bench.workload.datasets import Dataset, read_dataset
from slimgpt_bench.workload.lengths import Lengths
from slimgpt_bench.workload.sources import (
    FittedWords,
    Samples,
    Source,
    TokenIds,
    Windows,
    Words,
)
from slimgpt_bench.workload.trace import Trace, read_trace
from slimgpt_bench.workload.workload import Workload

DEFAULT_PROMPT = "128"


class Asked(Protocol):
    """The options that decide a workload."""

    @property
    def prompt(self) -> str | None: ...
    @property
    def output(self) -> str | None: ...
    @property
    def dataset(self) -> Path | None: ...
    @property
    def trace(self) -> Path | None: ...
    @property
    def tokenizer(self) -> Path | None: ...
    @property
    def vocabulary(self) -> int | None: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def arrival_kind(self) -> str: ...
    @property
    def burstiness(self) -> float: ...
    @property
    def ignore_eos(self) -> bool: ...
    @property
    def extra_body(self) -> Mapping[str, Any]: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Serves:
    """What is known of the served model.

    Attributes:
        tokenizer: directory of its tokenizer; None for unknown.
        vocabulary: rows of its embedding; None for unknown.
    """

    tokenizer: Path | None = None
    vocabulary: int | None = None


def make_workload(asked: Asked, serves: Serves, counted: Words | None) -> Workload | None:
    """The workload that options ask for.

    Args:
        asked: options.
        serves: of the model, beside what the options say.
        counted: how the server counts words; None where it was not asked.

    Returns:
        None where prompts are made of words and ``counted`` is needed.

    Raises:
        UsageError: files can't be read, or options contradict each other.
    """
    maker = _Maker(asked, serves)
    trace = read_trace(asked.trace) if asked.trace else None
    dataset = read_dataset(asked.dataset) if asked.dataset else None
    source, told = maker.source(dataset, trace, counted)
    if source is None:
        return None
    whole = isinstance(source, Samples)
    prompt = None if whole or trace else Lengths.parse(asked.prompt or DEFAULT_PROMPT, "--prompt")
    workload = Workload(
        source=source,
        prompt=prompt,
        output=Lengths.parse(asked.output, "--output") if asked.output else None,
        seed=asked.seed,
        trace=trace,
        about={
            "source": told,
            "endpoint": asked.endpoint,
            "arrival": asked.arrival_kind,
            "burstiness": asked.burstiness,
            "ignore_eos": asked.ignore_eos,
            "extra_body": dict(asked.extra_body),
        },
        tokenizer=maker.tokenizer if whole else None,
    )
    _require_windows(source, workload)
    return workload


def _require_windows(source: Source | Samples, workload: Workload) -> None:
    """Asks for the longest window once, before a request is under way."""
    if isinstance(source, Windows):
        longest = workload.prompt or (workload.trace and workload.trace.prompt_lengths())
        if longest:
            source.require(int(longest.quantile(1)))


class _Maker:
    """Chooses a source of prompts."""

    def __init__(self, asked: Asked, serves: Serves) -> None:
        self._asked = asked
        self._directory = asked.tokenizer or serves.tokenizer
        known = [x for x in (asked.vocabulary, serves.vocabulary) if x]
        self._vocabulary = min(known) if known else None
        self._loaded: Any = None

    @property
    def tokenizer(self) -> Any:
        """Of the served model; None for unknown."""
        if self._loaded is None and self._directory is not None:
            from slimgpt.tokenizer import load_tokenizer

            self._loaded = load_tokenizer(self._directory)
        return self._loaded

    def source(
        self, dataset: Dataset | None, trace: Trace | None, counted: Words | None
    ) -> tuple[Source | Samples | None, dict[str, Any]]:
        """Source and what the document tells of it."""
        asked = self._asked
        if trace and (asked.prompt or asked.output):
            raise UsageError("--trace has the lengths of its own: leave out --prompt and --output")
        if dataset and dataset.samples:
            if asked.prompt or trace:
                flag = "--trace" if trace else "--prompt"
                raise UsageError(
                    f"--dataset {dataset.name} holds whole prompts, whose lengths are their own: "
                    f"leave {flag} out, or give plain text"
                )
            told = {"kind": "dataset", "prompts": len(dataset.samples), "skipped": dataset.skipped}
            return Samples(dataset.samples), self._told(told, dataset)
        if dataset:
            return self._windows(dataset)
        return self._synthetic(counted)

    def _windows(self, dataset: Dataset) -> tuple[Source, dict[str, Any]]:
        from slimgpt.tokenizer import encode

        text = "\n\n".join(dataset.texts)
        if self.tokenizer is None:
            return Windows(text.split(), None, dataset.name), self._told(
                {"kind": "windows of words"}, dataset
            )
        ids = encode(self.tokenizer, text)
        as_text = self.tokenizer if self._asked.endpoint == "chat" else None
        return Windows(ids, as_text, dataset.name), self._told({"kind": "windows"}, dataset)

    def _synthetic(self, counted: Words | None) -> tuple[Source | None, dict[str, Any]]:
        if self._asked.endpoint == "chat" and self._directory:
            return FittedWords(self.tokenizer), self._told({"kind": "words, fitted"})
        if self._asked.endpoint == "completions" and (self._directory or self._vocabulary):
            ids = self._ordinary_ids()
            return TokenIds(ids), self._told({"kind": "token ids", "vocabulary": len(ids)})
        if counted is None:
            return None, {}
        told = {
            "kind": "words",
            "tokens_per_word": counted.tokens_per_word,
            "extra_tokens": counted.extra_tokens,
        }
        return counted, self._told(told)

    def _ordinary_ids(self) -> list[int]:
        """All token ids but the special ones."""
        if self._directory is None:
            return list(range(self._vocabulary or 0))
        size = min(len(self.tokenizer), self._vocabulary or len(self.tokenizer))
        special = set(self.tokenizer.all_special_ids)
        return [i for i in range(size) if i not in special]

    def _told(self, told: dict[str, Any], dataset: Dataset | None = None) -> dict[str, Any]:
        from slimgpt_bench.artefact import tokenizer_digest

        if dataset:
            told |= {"dataset": dataset.name, "dataset_digest": dataset.digest}
        if self._loaded is not None and self._directory is not None:
            told["tokenizer_digest"] = tokenizer_digest(self._directory)
        return told
