"""``slimgpt serve --engine onnx``: an ONNX export behind OpenAI's API, in this process."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource
from rich.text import Text

from slimgpt.commands.console import Console
from slimgpt.errors import UsageError

_SIGNALLED = 128  # and the signal's number: what shells say
_VLLMS = {
    "tensor_parallel": "--tensor-parallel",
    "gpu_memory_utilization": "--gpu-memory-utilization",
    "draft": "--draft",
    "draft_tokens": "--draft-tokens",
}
_OURS = {
    "max_concurrency": ("--max-concurrency", "-- --max-num-seqs"),
    "max_waiting": ("--max-waiting", "a proxy that counts"),
    "threads": ("--threads", "VLLM_CPU_OMP_THREADS_BIND"),
}


def refuse_for_vllm(model: str, *, exported: bool) -> None:
    """Refuses an ONNX export, and options of the ONNX server, where vLLM is to serve.

    Raises:
        UsageError: naming the way out.
    """
    if exported:
        raise UsageError(
            f"{model} is an ONNX export, which vLLM does not serve: leave --engine out, or give "
            "the checkpoint that it was made of"
        )
    for name, (flag, instead) in _OURS.items():
        if _given(name):
            raise UsageError(
                f"{flag} is for --engine onnx, and {model} is served by vLLM: leave it out; "
                f"vLLM has {instead}"
            )


def without_onnx(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the vLLM route has."""
    return {name: value for name, value in options.items() if name not in _OURS}


def _refuse_flags_of_vllm() -> None:
    flags = click.get_current_context().params["vllm_flags"]
    given = [flag for name, flag in _VLLMS.items() if _given(name)]
    given += [f"-- {flags[0]}"] if flags else []
    if given:
        raise UsageError(
            f"{given[0]} is for vLLM, and --engine onnx has no use for it: leave it out"
        )


def _given(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source not in (None, ParameterSource.DEFAULT)


def serve_onnx(console: Console, model: tuple[str, Path], options: Mapping[str, Any]) -> None:
    """Checks, then serves until a signal; with ``--dry-run`` checks alone.

    Raises:
        UsageError: options that are vLLM's, or can't be met anywhere.
        IntegrityError: MODEL is damaged.
        EnvironmentProblem: this machine can't meet the options.
    """
    _refuse_flags_of_vllm()
    module: Any = importlib.import_module("slimgpt_serve.openai_api.session")
    quiet = bool(click.get_current_context().params["quiet"])
    own = {name: value for name, value in options.items() if name not in (*_VLLMS, "vllm_flags")}
    session = module.prepare(module.Asked(model=model, environ=os.environ, quiet=quiet, **own))
    if options["dry_run"]:
        console.result(session.to_json(), Text(session.room.table()))
        return
    console.message(session.room.table())
    if session.access.made and session.access.key:
        # Not a message: those go to --log-file too.
        click.echo(f"the API key, shown this once: {session.access.key}", err=True)
    _run(console, session, quiet=quiet)


def _run(console: Console, session: Any, *, quiet: bool) -> None:
    module: Any = importlib.import_module("slimgpt_serve.openai_api.serving")

    def ready(loaded: Any, seconds: float) -> None:
        console.message(
            f"serving {session.name} as {session.served_name!r} at {session.address.url} "
            f"(ready after {seconds:.1f} s, {session.room.kv_tokens:,} KV tokens, "
            f"{loaded.provider}, {loaded.threads} threads)"
        )
        if console.as_json:
            done = {
                "url": session.address.url,
                **session.to_json(),
                "provider": loaded.provider,
                "threads": loaded.threads,
                "pid": os.getpid(),
                "seconds": seconds,
                "kv_tokens": session.room.kv_tokens,
            }
            console.result(done, "")
            sys.stdout.flush()

    number, was_ready = module.serve(session, ready, console.message, access_log=not quiet)
    if not was_ready:
        _leave_loading(console, _SIGNALLED + number)
    raise click.exceptions.Exit(0 if number == signal.SIGTERM else _SIGNALLED + number)


def _leave_loading(console: Console, code: int) -> NoReturn:
    """Ends the process under ONNX Runtime, which loads on in its thread and can't be told."""
    console.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
