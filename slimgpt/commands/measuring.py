"""The options of every measurement of a model alone: what is run, how often, and on what."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from slimgpt.errors import UsageError

_LATENCY = ("trials", "warmup", "device", "dtype", "threads", "compiled", "seed")
_Command = Callable[..., None]


def whole_numbers(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> tuple[int, ...]:
    """``8``, or several as ``1,8``; each once."""
    found: list[int] = []
    for value in values:
        try:
            found += [int(part) for part in value.split(",")]
        except ValueError:
            raise UsageError(
                f"{param.opts[0]} {value}: give whole numbers with commas between, like 1,8"
            ) from None
    return tuple(dict.fromkeys(found))


def engine_and_cells(command: _Command) -> _Command:
    """``--engine``, ``--batch``, ``--prompt`` and ``--output``."""
    for name, default, what in (
        ("output", "64", "Tokens of each answer, all of them generated; several likewise."),
        ("prompt", "128", "Tokens of each prompt, random ones; several likewise."),
        ("batch", "1", "Sequences that run together; several, like 1,8, are measured each."),
    ):
        command = click.option(
            f"--{name}",
            callback=whole_numbers,
            multiple=True,
            default=(default,),
            help=f"{what}  [default: {default}]",
        )(command)
    return click.option(
        "--engine",
        type=click.Choice(["transformers", "onnx", "vllm"]),
        help="What runs it.  [default: onnx for an ONNX export, else transformers]",
    )(command)


def trials_and_warmup(command: _Command) -> _Command:
    """``--trials`` and ``--warmup``."""
    command = click.option(
        "--warmup",
        type=int,
        default=3,
        show_default=True,
        help="Trials before those that count: at least so many, and more until they agree.",
    )(command)
    return click.option(
        "--trials", type=int, default=10, show_default=True, help="Of each setting and run."
    )(command)


def compiled_and_threads(command: _Command) -> _Command:
    """``--compile/--eager`` and ``--threads``."""
    command = click.option(
        "--threads", type=click.IntRange(min=1), help="On a CPU.  [default: the engine's]"
    )(command)
    return click.option(
        "--compile/--eager",
        "compiled",
        default=None,
        help="With torch.compile (vLLM: and CUDA graphs), or without.  "
        "[default: vLLM on a GPU alone]",
    )(command)


def save_option(command: _Command) -> _Command:
    """``--save``."""
    return click.option(
        "--save",
        type=click.Path(path_type=Path),
        help="Keep the result there, with the raw values: a directory that does not exist.",
    )(command)


def latency_options(given: Mapping[str, Any]) -> Any:
    """What the options come to, as slimgpt_bench.latency.cells.LatencyOptions."""
    cells: Any = importlib.import_module("slimgpt_bench.latency.cells")
    return cells.LatencyOptions(
        given["engine"] or "auto",
        cells.make_cells(given["batch"], given["prompt"], given["output"]),
        **{name: given[name] for name in _LATENCY},
    )
