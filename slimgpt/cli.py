"""The ``slimgpt`` command: maps verbs to modules, loaded when called; turns errors into lines."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence

import click

from slimgpt import __version__
from slimgpt.commands.lazy import LazyGroup
from slimgpt.errors import EnvironmentProblem, SlimGPTError, UsageError

VERBS = {
    "plan": "slimgpt.commands.plan:plan",
    "prune": "slimgpt.commands.prune:prune",
    "recover": "slimgpt.commands.recover:recover",
    "evaluate": "slimgpt.commands.evaluate:evaluate",
    "compress": "slimgpt.commands.compress:compress",
    "recipe": "slimgpt.commands.recipe:recipe",
    "verify": "slimgpt.commands.verify:verify",
    "export": "slimgpt.commands.export:export",
    "serve": "slimgpt.commands.serve:serve",
    "bench": "slimgpt.commands.bench:bench",
    "capacity": "slimgpt.commands.capacity:capacity",
    "report": "slimgpt.commands.report:report",
    "inspect": "slimgpt.commands.inspect:inspect",
    "generate": "slimgpt.commands.generate:generate",
    "demo": "slimgpt.commands.demo:demo",
}
SUMMARIES = {
    "plan": "Per-layer shapes, sizes and cost of a pruned model, from config.json alone.",
    "prune": "Prune a checkpoint into a smaller one.",
    "recover": "Heal a pruned checkpoint with LoRA, merged into plain weights.",
    "evaluate": "Perplexity, KL and task accuracy of a model, beside the dense one.",
    "compress": "The whole pipeline, as a recipe says: prune, recover, evaluate, gate, release.",
    "recipe": "Write a commented recipe, or check one.",
    "verify": "Is a checkpoint intact, and is what it claims true.",
    "export": "Forms for other tools: ONNX, stock layout, quantised weights, a bill of materials.",
    "serve": "An OpenAI-compatible server, with vLLM or ONNX Runtime.",
    "bench": "Measure: latency, memory, load, dense against pruned, quality, draft decoding.",
    "capacity": "How many accelerators this traffic needs within this SLO, and what they cost.",
    "report": "One HTML page of measurements, plans and checkpoints.",
    "inspect": "What a checkpoint holds and how it was made.",
    "generate": "One completion, for the eye.",
    "demo": "The main job on the embedded model, offline.",
}
_AGAIN_S = 0.01
INTERRUPTED, BROKEN_PIPE = 130, 141
"""As shells call what SIGINT and SIGPIPE end; 1 would say that a gate was missed."""


@click.group(
    cls=LazyGroup,
    verbs=VERBS,
    summaries=SUMMARIES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="slimgpt")
def cli() -> None:
    """Prune LLaMA-family language models into smaller ones that load everywhere.

    MODEL is a checkpoint directory or a hub id; OUT must not exist and appears complete or not at
    all. Exit codes: 0 done, 1 a gate failed, 2 usage, 3 unresolved measurement, 4 environment,
    5 integrity.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code; expected errors become one line."""
    try:
        # What a command raises as click's Exit comes back as its code; commands return nothing.
        code = cli.main(args=arguments, prog_name="slimgpt", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except SystemExit:  # click's answer to a reader of our output that went away
        return BROKEN_PIPE
    except click.exceptions.NoArgsIsHelpError as nothing:
        nothing.show()
        return nothing.exit_code
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except SlimGPTError as error:
        for line in error.problems or (str(error),):
            _fail(line, error.exit_code)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted: give the same command again", INTERRUPTED)
    except UnicodeError as error:
        return _fail(f"a name or a text is no UTF-8: {error}", UsageError.exit_code)
    except OSError as error:
        return _fail(_system_message(error), EnvironmentProblem.exit_code)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return _fail(
            "out of memory: give fewer --samples, a shorter --sequence-length or --activations "
            "disk when pruning, --gradient-checkpointing or a smaller --micro-batch, --max-length, "
            "--batch-size or --window elsewhere, or "
            "use --device cpu",
            EnvironmentProblem.exit_code,
        )
    return code if isinstance(code, int) else 0


def out_of_memory(error: Exception) -> bool:
    """Whether Python or torch, on a CPU or a GPU, could not allocate."""
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or "out of memory" in text
        or ("allocate memory" in text or "not enough memory" in text)
    )


def _system_message(error: OSError) -> str:
    """What the system refused; a full disk in the middle of a run is the likeliest."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def _fail(message: str, code: int) -> int:
    line = " ".join(message.split())
    # Names come from files of anyone: what they hold must not steer a terminal.
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    click.echo(f"slimgpt: {shown}", err=True)
    return code


def keep_interrupts() -> None:
    """Gives a Ctrl-C once more that came while an object was deleted, where Python drops it.

    Importing transformers deletes thousands of objects of the package regex, each with a __del__.
    """
    usual = sys.unraisablehook

    def look(dropped: sys.UnraisableHookArgs) -> None:
        if isinstance(dropped.exc_value, KeyboardInterrupt):
            # Not at once, which would be within this very hook, where it is dropped again.
            again = threading.Timer(_AGAIN_S, os.kill, (os.getpid(), signal.SIGINT))
            again.daemon = True
            again.start()
        else:
            usual(dropped)

    sys.unraisablehook = look


def main() -> None:
    """Entry point of the console script."""
    keep_interrupts()
    sys.exit(run())
