"""``slimgpt serve``: an OpenAI-compatible server of a checkpoint."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.text import Text

from slimgpt.commands.console import Console, common, seed_option
from slimgpt.commands.serve_onnx import refuse_for_vllm, serve_onnx, without_onnx
from slimgpt.errors import UsageError

_SIGNALLED = 128  # and the signal's number: what shells say


@click.command()
@click.argument("model")
@click.argument("vllm_flags", nargs=-1, type=click.UNPROCESSED, metavar="[-- VLLM FLAGS...]")
@click.option(
    "--engine",
    type=click.Choice(["vllm", "onnx"]),
    help="What serves.  [default: onnx for an ONNX export, else vllm]",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; one that others reach needs a key.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="0 takes any that is free.",
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Holds the key that clients must bring; VLLM_API_KEY does too.",
)
@click.option(
    "--tensor-parallel",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Devices to split every layer over.",
)
@click.option(
    "--max-model-len",
    type=click.IntRange(min=1),
    help="Tokens of prompt and answer together.  [default: the model's context, or what fits]",
)
@click.option(
    "--gpu-memory-utilization",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=0.9,
    show_default=True,
    help="Share of each GPU's memory to take.",
)
@click.option("--draft", help="A smaller MODEL that drafts tokens (speculative decoding).")
@click.option(
    "--draft-tokens",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Tokens to draft at a time.",
)
@click.option(
    "--max-concurrency",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Answers at the same time (onnx).",
)
@click.option(
    "--max-waiting",
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    help="Answers that may wait for their turn (onnx); 429 beyond.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Of one operator (onnx).  [default: the cores that may be used]",
)
@click.option(
    "--dry-run", is_flag=True, help="Check and count, and start nothing; the port is not tried."
)
@seed_option
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
    default="auto",
    show_default=True,
    help="What to compute in; auto is the stored type.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto, cpu, cuda or cuda:1.",
)
@common
def serve(console: Console, model: str, engine: str | None, **options: Any) -> None:
    """Serve MODEL over HTTP, as OpenAI's API: completions, chat, metrics.

    A checkpoint is served by vLLM, an ONNX export by ONNX Runtime in this process. What can be
    known is checked first: the files, the devices, the memory, the port. SIGTERM and Ctrl-C let
    requests under way end; a second one does not. Flags of vLLM stand after --.

    Exit codes: 0 after SIGTERM, 130 after Ctrl-C, 143 after SIGTERM before it was ready, 4 if vLLM
    dies.
    """
    from slimgpt.checkpoint.locate import locate
    from slimgpt.checkpoint.onnx_export import is_onnx

    directory = locate(model)
    exported = is_onnx(directory)
    if engine == "onnx" or (exported and engine is None):
        serve_onnx(console, (model, directory), options)
        return
    refuse_for_vllm(model, exported=exported)
    _serve_vllm(console, (model, directory), without_onnx(options))


def _serve_vllm(console: Console, model: tuple[str, Path], options: dict[str, Any]) -> None:
    draft, dry_run = options.pop("draft"), options.pop("dry_run")
    module: Any = importlib.import_module("slimgpt_serve.launcher.session")
    context = click.get_current_context()
    given = context.get_parameter_source("draft_tokens") is ParameterSource.COMMANDLINE
    if given and not draft:
        raise UsageError("--draft-tokens means nothing without --draft: give a draft model")
    quiet = bool(context.params["quiet"])
    asked = module.Asked(
        model=model,
        draft=(draft, _locate_draft(draft)) if draft else None,
        environ=os.environ,
        quiet=quiet,
        dry_run=dry_run,
        **options,
    )
    session = module.prepare(asked)
    if dry_run:
        console.result(session.to_json(), Text(session.found.table()))
        return
    _run(console, session, quiet=quiet)


def _locate_draft(draft: str) -> Path:
    from slimgpt.checkpoint.locate import locate

    try:
        return locate(draft)
    except UsageError as reason:
        raise UsageError(f"--draft: {reason}") from None


def _run(console: Console, session: Any, *, quiet: bool) -> None:
    module: Any = importlib.import_module("slimgpt_serve.launcher.watch")
    console.message(session.found.table())
    if session.access.made and session.access.key:
        # Not a message: those go to --log-file too.
        click.echo(f"the API key, shown this once: {session.access.key}", err=True)
    server = session.server(None if quiet else _echo)

    was_ready = False

    def ready(process: Any, seconds: float) -> None:
        nonlocal was_ready
        was_ready = True
        tokens = module.kv_tokens(process.lines)
        console.message(
            f"serving {session.model.name} as {session.served_name!r} at {session.address.url} "
            f"(ready after {seconds:.0f} s, "
            f"{session.found.kv_tokens if tokens is None else tokens:,} KV tokens)"
        )
        if console.as_json:
            done = {
                "url": session.address.url,
                **session.to_json(),
                "pid": os.getpid(),
                "seconds": seconds,
                "kv_tokens": tokens,
            }
            console.result(done, "")
            sys.stdout.flush()

    number = module.watch(server, session.address, session.drain_s, ready, console.message)
    raise click.exceptions.Exit(
        0 if was_ready and number == signal.SIGTERM else _SIGNALLED + number
    )


def _echo(line: str) -> None:
    click.echo(line, err=True, nl=False)
