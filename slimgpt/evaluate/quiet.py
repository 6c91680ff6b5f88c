"""Keeps what a chatty library prints, logs, warns of and draws away from the user."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from tqdm.std import tqdm  # type: ignore[import-untyped] # 2026-11-22: 4.x ships no types


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing but errors comes out of the block: our own progress goes to stderr as before.

    Standard error itself can't be redirected, since our progress is on it.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), _no_bars(), _one_process():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Every tqdm bar is disabled, also one whose caller says ``disable=False``."""
    original = tqdm.__init__

    def disabled(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options | {"disable": True})

    tqdm.__init__ = disabled
    try:
        yield
    finally:
        tqdm.__init__ = original


@contextmanager
def _one_process() -> Iterator[None]:
    """lm-eval's bootstrap forks no pool beside the threads of torch."""
    name = "DISABLE_MULTIPROC"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
