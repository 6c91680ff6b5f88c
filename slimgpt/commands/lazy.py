"""A group of commands that are imported when they are called, and not for ``--help``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyGroup(click.Group):
    """Knows where its commands are, and a line on each.

    Args:
        verbs: name to ``module:attribute``.
        summaries: name to what the help says of it.
    """

    def __init__(
        self, *args: Any, verbs: Mapping[str, str], summaries: Mapping[str, str], **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._verbs, self._summaries = verbs, summaries

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._verbs:
            return None
        module, _, attribute = self._verbs[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb, self._summaries[verb]) for verb in self._verbs])
