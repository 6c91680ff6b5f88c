"""What ends in one line instead of a traceback."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
import torch

from slimgpt import cli


def test_real_allocation_failures_are_recognised():
    with pytest.raises(RuntimeError) as torch_error:
        torch.empty(2**60, dtype=torch.float32)
    with pytest.raises(MemoryError) as python_error:
        bytearray(2**62)
    assert cli.out_of_memory(torch_error.value)
    assert cli.out_of_memory(python_error.value)
    assert not cli.out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_running_out_of_memory_is_one_line_and_the_environments_fault(monkeypatch, capsys):
    def allocate(*_: object, **__: object) -> None:
        torch.empty(2**60, dtype=torch.float32)

    monkeypatch.setattr(cli.cli, "main", allocate)
    assert cli.run(["plan"]) == 4
    assert capsys.readouterr().err.startswith("slimgpt: out of memory: give fewer --samples")


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_accepts_the_common_options(verb):
    command = cli.cli.get_command(click.Context(cli.cli), verb)
    assert command is not None
    context = click.Context(command)
    group = command if isinstance(command, click.Group) else None
    inner = [group.get_command(context, x) for x in group.list_commands(context)] if group else []
    for each in inner or [command]:
        assert each is not None
        names = {p.name for p in each.params}
        assert {"seed", "device", "dtype", "as_json", "quiet", "log_file"} <= names


def test_a_name_that_is_no_utf8_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(cli.cli, "main", lambda **_: "\udcff".encode())
    assert cli.run(["plan"]) == 2
    assert capsys.readouterr().err.startswith("slimgpt: a name or a text is no UTF-8")


def test_an_interrupt_while_an_object_is_deleted_is_not_lost():
    script = """
import signal, sys, time
from slimgpt.cli import keep_interrupts
keep_interrupts()
class Dying:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    for _ in range(3):
        Dying()
    time.sleep(20)
except KeyboardInterrupt:
    sys.exit(130)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=15
    )
    assert (done.returncode, done.stderr) == (130, "")
