"""From a checked export to a model that can answer."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import slimgpt
from slimgpt.errors import UsageError
from slimgpt_serve.onnx_runtime.runner import Runner
from slimgpt_serve.onnx_runtime.session import open_session
from slimgpt_serve.onnx_runtime.tokens import Tokenizer, load_tokenizer
from slimgpt_serve.openai_api.asks import Asks
from slimgpt_serve.openai_api.engine import Engine
from slimgpt_serve.openai_api.metrics import Metrics
from slimgpt_serve.openai_api.service import Service
from slimgpt_serve.openai_api.session import Session


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that can answer.

    Attributes:
        service: that answers.
        provider: of ONNX Runtime that runs it.
        threads: of one operator on a CPU.
    """

    service: Service
    provider: str
    threads: int


def load(session: Session) -> Loaded:
    """Reads the weights, allocates the caches, and runs the model once.

    Raises:
        EnvironmentProblem: the device or the memory is not there.
        IntegrityError: the graph can't be run.
    """
    asked, artefact, room = session.asked, session.artefact, session.room
    tokenizer = load_tokenizer(artefact.directory)
    opened = open_session(artefact, device=asked.device, threads=asked.threads)
    runner = Runner(opened, room.capacity, room.slots)
    _warm_up(runner, tokenizer)
    metrics = Metrics()
    metrics.tell_artefact(slimgpt.__version__, session.served_name, session.digest)
    engine = Engine(runner, tokenizer, metrics, max_waiting=asked.max_waiting)
    metrics.watch(engine)
    asks = Asks(
        tokenizer,
        vocabulary=artefact.vocabulary,
        capacity=room.capacity,
        eos=artefact.eos,
        seed=asked.seed,
    )
    service = Service(engine, asks, metrics, session.served_name)
    return Loaded(service, opened.provider, opened.threads)


def _warm_up(runner: Runner, tokenizer: Tokenizer) -> None:
    """What could fail at the first request fails now, and the first request is no slower."""
    runner.prefill(0, [0])
    runner.decode([0] * runner.slots, [1] * runner.slots)
    if tokenizer.has_chat_template:
        with suppress(UsageError):  # a template may want more than one word of a user
            tokenizer.chat([{"role": "user", "content": "hello"}])
