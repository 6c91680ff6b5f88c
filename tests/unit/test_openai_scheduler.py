"""Continuous batching, step by step, over a real model."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from slimgpt_serve.onnx_runtime.continuation import Continuation
from slimgpt_serve.onnx_runtime.generator import generate
from slimgpt_serve.onnx_runtime.sampling import SamplingOptions
from slimgpt_serve.onnx_runtime.tokens import Decoder, Tokenizer
from slimgpt_serve.openai_api.events import Ask, Event, Failed, Piece
from slimgpt_serve.openai_api.metrics import Metrics
from slimgpt_serve.openai_api.scheduler import CHUNK_TOKENS, Answer, Job, Scheduler
from tests.onnx_serving import export_small, make_runner, spoil_position, tokenizer_of

TEXTS = ["Once", "The old man and the", "It was", "She", "In the morning they", "My dear"]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_small(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def spoiled(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No text gets beyond 30 tokens."""
    return spoil_position(export, tmp_path_factory.mktemp("spoiled") / "out", 30)


@dataclass
class Desk:
    """A scheduler, what waits for it, and what it sent."""

    export: Path
    slots: int = 3
    waiting: deque[Answer] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.tokenizer: Tokenizer = tokenizer_of(self.export)
        self.runner = make_runner(self.export, slots=self.slots)
        self.metrics = Metrics()
        self.scheduler = Scheduler(self.runner, self.tokenizer, self.metrics)
        self.sent: dict[int, list[Event]] = {}

    def ask(self, text: str | Sequence[int], tokens: int = 12, *, seed: int | None = None) -> Ask:
        prompt = self.tokenizer.encode(text) if isinstance(text, str) else text
        sampling = SamplingOptions(temperature=float(seed is not None), seed=seed or 0)
        return Ask(tuple(prompt), tokens, sampling)

    def add(self, ask: Ask, decoder: Decoder | None = None) -> Job:
        """One more request, of one answer."""
        events = self.sent.setdefault(len(self.sent), [])
        job = Job(events.append)
        generated = Continuation(
            ask.prompt,
            ask.sampling,
            max_new_tokens=ask.max_tokens,
            decoder=decoder or self.tokenizer,
        )
        self.waiting.append(Answer(job, 0, ask, 0.0, generated))
        return job

    def step(self) -> None:
        self.scheduler.step(lambda: self.waiting.popleft() if self.waiting else None)

    def run(self) -> None:
        while self.waiting or self.scheduler.under_way():
            self.step()

    def text(self, number: int) -> str:
        return "".join(x.text for x in self.sent[number] if isinstance(x, Piece))

    def tokens(self, number: int) -> int:
        return sum(x.tokens for x in self.sent[number] if isinstance(x, Piece))

    def alone(self, ask: Ask) -> str:
        """The same by ``slimgpt generate``'s own loop, with nothing beside it."""
        [found] = generate(
            make_runner(self.export, slots=1),
            self.tokenizer,
            [list(ask.prompt)],
            ask.sampling,
            max_new_tokens=ask.max_tokens,
        )
        return found.text

    def metric(self, name: str) -> float:
        families = text_string_to_metric_families(self.metrics.text().decode())
        return sum(s.value for f in families for s in f.samples if s.name == f"slimgpt_{name}")


# -- the texts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [[None] * 6, range(6)], ids=["greedy", "sampled"])
def test_answers_together_are_those_one_by_one(export, seeds):
    desk = Desk(export)
    asks = [
        desk.ask(text, 5 + 4 * i, seed=seed)
        for i, (text, seed) in enumerate(zip(TEXTS, seeds, strict=True))
    ]
    for ask in asks:
        desk.add(ask)
    desk.run()
    assert [desk.text(i) for i in range(6)] == [desk.alone(ask) for ask in asks]


def test_answers_that_come_later_change_nothing(export):
    desk = Desk(export)
    asks = [desk.ask(text, 20) for text in TEXTS]
    for ask in asks:
        desk.add(ask)
        desk.step()
        desk.step()
    desk.run()
    assert [desk.text(i) for i in range(6)] == [desk.alone(ask) for ask in asks]


def test_prompts_of_several_chunks_are_read_whole(export):
    desk = Desk(export, slots=2)
    long = desk.ask([3 + i % 900 for i in range(CHUNK_TOKENS + 70)])
    asks = [desk.ask("Once", 30), long, desk.ask("The", 3)]
    for ask in asks:
        desk.add(ask)
    desk.run()
    assert [desk.text(i) for i in range(3)] == [desk.alone(ask) for ask in asks]


# -- turns --------------------------------------------------------------------------------------


def test_a_stream_gets_a_token_between_two_chunks_of_another_prompt(export):
    desk = Desk(export)
    desk.add(desk.ask("Once", 100))
    desk.step()
    before = desk.tokens(0)
    desk.add(desk.ask([5] * (CHUNK_TOKENS + 10)))
    for steps in (1, 2):
        desk.step()
        assert desk.tokens(0) == before + steps
        assert (desk.tokens(1) > 0) == (steps == 2)


def test_short_prompts_are_read_in_one_step(export):
    desk = Desk(export)
    for text in TEXTS[:3]:
        desk.add(desk.ask(text))
    desk.step()
    assert [desk.tokens(i) for i in range(3)] == [2, 2, 2]


def test_no_more_run_than_there_are_slots(export):
    desk = Desk(export, slots=2)
    for text in TEXTS:
        desk.add(desk.ask(text))
    most = 0
    while desk.waiting or desk.scheduler.under_way():
        desk.step()
        most = max(most, len(desk.scheduler.under_way()))
    assert most == 2


def test_an_answer_of_one_token_ends_with_its_prompt(export):
    desk = Desk(export, slots=1)
    desk.add(desk.ask("Once", 1))
    desk.step()
    assert desk.tokens(0) == 1
    assert desk.scheduler.under_way() == []


# -- ends ---------------------------------------------------------------------------------------


def test_a_cancelled_answer_frees_its_slot_with_the_next_step(export):
    desk = Desk(export)
    asks = [desk.ask(text, 60) for text in TEXTS[:4]]
    jobs = [desk.add(ask) for ask in asks]
    desk.step()
    assert len(desk.waiting) == 1
    jobs[0].cancelled = True
    told = desk.tokens(0)
    desk.step()
    assert len(desk.waiting) == 0
    desk.run()
    assert desk.tokens(0) == told
    assert [desk.text(i) for i in (1, 2, 3)] == [desk.alone(ask) for ask in asks[1:]]
    assert desk.metric("request_success_total") == 4


def test_a_prompt_that_is_being_read_moves_with_the_rows(export):
    desk = Desk(export)
    asks = [desk.ask("Once", 100), desk.ask("The", 30), desk.ask([7] * (CHUNK_TOKENS + 50))]
    jobs = [desk.add(ask) for ask in asks]
    desk.step()
    jobs[0].cancelled = True
    desk.run()
    assert [desk.text(i) for i in (1, 2)] == [desk.alone(ask) for ask in asks[1:]]


def test_a_prompt_that_nobody_wants_any_more_is_not_read_on(export):
    desk = Desk(export)
    job = desk.add(desk.ask([7] * (CHUNK_TOKENS + 50)))
    desk.step()
    job.cancelled = True
    desk.step()
    assert desk.scheduler.under_way() == []
    assert desk.tokens(0) == 0


def _numbers_end(desk: Desk, ask: Ask) -> None:
    """A text beside two others ends in an error of its own, and the others go on."""
    others = [desk.ask("Once", 20), desk.ask("The", 20)]
    for each in (others[0], ask, others[1]):
        desk.add(each)
    desk.run()
    last = desk.sent[1][-1]
    assert isinstance(last, Failed)
    assert last.status == 500
    assert last.message.startswith("the model's logits are no numbers")
    assert [desk.text(i) for i in (0, 2)] == [desk.alone(each) for each in others]
    assert desk.metric("request_success_total") == 3


def test_a_prompt_without_numbers_fails_alone(spoiled):
    desk = Desk(spoiled)
    _numbers_end(desk, desk.ask([5] * 40))
    assert desk.tokens(1) == 0


def test_an_answer_that_runs_out_of_numbers_fails_alone(spoiled):
    desk = Desk(spoiled)
    _numbers_end(desk, desk.ask([5] * 20, 60))
    assert desk.tokens(1) == 11


def test_an_answer_whose_own_text_breaks_fails_alone(export, caplog):
    class OfPrompts:
        """Breaks with the second text that it is given, the first answer's."""

        asked = 0

        def decode(self, ids: Sequence[int]) -> str:
            self.asked += 1
            if self.asked > 1:
                raise RuntimeError("no such byte")
            return ""

    desk = Desk(export)
    asks = [desk.ask(text, 20) for text in TEXTS[:3]]
    for ask, decoder in zip(asks, (None, OfPrompts(), None), strict=True):
        desk.add(ask, decoder)
    desk.run()
    assert desk.sent[1] == [Failed("the server made a mistake; its log has it", 500)]
    assert [desk.text(i) for i in (0, 2)] == [desk.alone(asks[i]) for i in (0, 2)]
    assert desk.metric("request_success_total") == 3
    assert "no such byte" in caplog.text


# -- what is told -------------------------------------------------------------------------------


def test_every_sample_of_the_metrics_is_told_once(export):
    families = text_string_to_metric_families(Desk(export).metrics.text().decode())
    samples = [(s.name, *s.labels.items()) for family in families for s in family.samples]
    assert len(samples) == len(set(samples)) > 50


def test_metrics_count_what_happened(export):
    desk = Desk(export)
    asks = [desk.ask(text, 5) for text in TEXTS]
    for ask in asks:
        desk.add(ask)
    desk.run()
    assert desk.metric("prompt_tokens_total") == sum(len(ask.prompt) for ask in asks)
    assert desk.metric("generation_tokens_total") == 6 * 5
    assert desk.metric("time_to_first_token_seconds_count") == 6
    assert desk.metric("inter_token_latency_seconds_count") == 6 * 4
    assert desk.metric("e2e_request_latency_seconds_count") == 6


def test_log_probabilities_are_of_the_models_own_distribution(export):
    desk = Desk(export)
    plain = desk.ask("Once", 6, seed=3)
    desk.add(Ask(plain.prompt, 6, plain.sampling, alternatives=2))
    desk.run()
    scores = [score for x in desk.sent[0] if isinstance(x, Piece) for score in x.scores]
    assert "".join(score.text for score in scores) == desk.text(0)
    for score in scores:
        (_, best), (_, second) = score.alternatives
        assert 0 > best >= second
        assert best >= score.logprob
