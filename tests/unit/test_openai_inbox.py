"""Events that wait for their reader: what is left waiting comes as one piece, in order."""

from __future__ import annotations

import asyncio
import time

import pytest

from slimgpt_serve.openai_api.events import Event, Failed, Piece, ScoredToken
from slimgpt_serve.openai_api.inbox import Inbox
from slimgpt_serve.openai_api.refusal import Refusal


def _read(events: list[Event], answers: int = 1) -> list[Piece]:
    async def read() -> list[Piece]:
        inbox = Inbox(answers, streams=True)
        for event in events:
            inbox.deliver(event)
        return [piece async for piece in inbox.pieces()]

    return asyncio.run(read())


def test_pieces_that_wait_come_as_one():
    scores = [ScoredToken(word, -1.0, ()) for word in "ab"]
    events = [
        Piece(0, "a", 1, (scores[0],)),
        Piece(0, "", 1),
        Piece(0, "b", 1, (scores[1],), "stop"),
    ]
    assert _read(list(events)) == [Piece(0, "ab", 3, tuple(scores), "stop")]


def test_answers_keep_their_order():
    events = [Piece(0, "a", 1), Piece(1, "b", 1), Piece(0, "c", 1, (), "stop")]
    assert _read([*events, Piece(1, "d", 1, (), "length")], 2) == [
        *events,
        Piece(1, "d", 1, (), "length"),
    ]


def test_a_failure_behind_a_piece_is_not_lost():
    with pytest.raises(Refusal, match="gone"):
        _read([Piece(0, "a", 1), Failed("gone", 500)])


def test_a_long_answer_takes_no_longer_a_token_than_a_short_one():
    score = (ScoredToken("word ", -1.0, ()),)
    events: list[Event] = [Piece(0, "word ", 1, score)] * 100_000
    started = time.process_time()
    [piece] = _read([*events, Piece(0, "", 1, (), "length")])
    assert piece.tokens == len(piece.scores) + 1 == 100_001
    assert time.process_time() - started < 5  # 0.05 s; joined one by one, 15 s
