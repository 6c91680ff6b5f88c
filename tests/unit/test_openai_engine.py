"""The engine's thread: who is let in, who is turned away, and how it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from slimgpt_serve.onnx_runtime.runner import Runner
from slimgpt_serve.onnx_runtime.sampling import SamplingOptions
from slimgpt_serve.openai_api.engine import Engine
from slimgpt_serve.openai_api.events import Ask, Event, Failed, Piece
from slimgpt_serve.openai_api.metrics import Metrics
from slimgpt_serve.openai_api.refusal import Refusal
from tests.onnx_serving import export_small, make_runner, tokenizer_of

PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_small(tmp_path_factory.mktemp("export"))


class Stoppable(Engine):
    """An engine that ``closing`` stops."""

    close = Engine.stop


@contextmanager
def _engine(export: Path, *, waiting: int = 2, runner: Any = None) -> Iterator[Engine]:
    """An engine with two slots, not started yet."""
    runner = runner or make_runner(export, slots=2)
    engine = Stoppable(runner, tokenizer_of(export), Metrics(), max_waiting=waiting)
    with closing(engine):
        yield engine


def _asks(count: int, tokens: int = 200) -> list[Ask]:
    return [Ask((1, 50 + i), tokens, SamplingOptions()) for i in range(count)]


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _refused(engine: Engine, asks: Sequence[Ask]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        engine.submit(asks, lambda _: None)
    return caught.value


def test_answers_of_one_request_are_numbered(export):
    sent: list[Event] = []
    with _engine(export) as engine:
        engine.start()
        engine.submit(_asks(3, 4), sent.append)
        _until(lambda: sum(isinstance(x, Piece) and bool(x.finish_reason) for x in sent) == 3)
    tokens = [
        sum(x.tokens for x in sent if isinstance(x, Piece) and x.index == i) for i in range(3)
    ]
    assert tokens == [4, 4, 4]


def test_more_than_could_ever_wait_is_refused_for_good(export):
    with _engine(export) as engine:
        refusal = _refused(engine, _asks(5))
    assert (refusal.status, refusal.param) == (400, "n")
    assert refusal.message == (
        "the request asks for 5 answers, and this server takes 4 at once (2 running, 2 waiting): "
        "send fewer prompts, or a smaller n"
    )


def test_too_many_waiting_are_refused_for_now(export):
    with _engine(export) as engine:  # nothing runs: what comes waits
        engine.submit(_asks(3), lambda _: None)
        refusal = _refused(engine, _asks(2))
        assert (refusal.status, refusal.code) == (429, "rate_limit_exceeded")
        assert refusal.message.startswith("3 answers wait already, and this server lets 2 wait")
        assert refusal.headers() == {"Retry-After": "1"}
        engine.submit(_asks(1), lambda _: None)


def test_without_a_queue_free_slots_are_all_there_is(export):
    with _engine(export, waiting=0) as engine:
        engine.submit(_asks(2), lambda _: None)
        assert _refused(engine, _asks(1)).status == 429


def test_a_cancelled_request_leaves_queue_and_slots(export):
    with _engine(export) as engine:
        job = engine.submit(_asks(4), lambda _: None)
        engine.start()
        _until(lambda: engine.load().running == 2)
        assert engine.load().cached_tokens > 0
        engine.cancel(job)
        _until(lambda: engine.load().running == 0)
        assert engine.load().waiting == 0
        assert engine.healthy


def test_a_stopped_engine_fails_what_is_under_way_and_takes_nothing(export):
    sent: list[Event] = []
    with _engine(export) as engine:
        engine.start()
        engine.submit(_asks(4), sent.append)
        _until(lambda: len(sent) > 0)
        engine.stop()
        assert [x for x in sent if isinstance(x, Failed)] == 4 * [
            Failed("the server is stopping", 503)
        ]
        assert not engine.healthy
        assert _refused(engine, _asks(1)).status == 503


def test_an_engine_that_closes_answers_what_it_took(export):
    sent: list[Event] = []
    with _engine(export) as engine:
        engine.start()
        engine.submit(_asks(4, 30), sent.append)
        engine.refuse_new()
        assert not engine.healthy
        assert _refused(engine, _asks(1)).status == 503
        _until(lambda: sum(isinstance(x, Piece) and bool(x.finish_reason) for x in sent) == 4)
        assert not any(isinstance(x, Failed) for x in sent)


class Breaking:
    """A runner that breaks with its third step."""

    def __init__(self, runner: Runner) -> None:
        self._runner, self._left = runner, 2

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Any:
        self._left -= 1
        if self._left < 0:
            raise RuntimeError("the device is gone")
        return self._runner.decode(tokens, lengths)


def test_an_engine_that_breaks_fails_all_and_says_so(export, caplog):
    sent: list[Event] = []
    with _engine(export, runner=Breaking(make_runner(export, slots=2))) as engine:
        engine.start()
        engine.submit(_asks(3), sent.append)
        _until(lambda: sum(isinstance(x, Failed) for x in sent) == 3)
        assert not engine.healthy
        refusal = _refused(engine, _asks(1))
    assert (refusal.status, refusal.message) == (
        503,
        "the engine stopped after an error, which the server's log has: restart it",
    )
    assert "the device is gone" in caplog.text
