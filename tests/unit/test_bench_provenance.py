"""What a result tells of where it was measured: the machine and the command, nothing secret."""

from __future__ import annotations

import json
import sys

import pytest

from slimgpt_bench.provenance import command, environment


def test_an_environment_names_machine_and_versions():
    found = environment()
    assert found["cores"] >= 1
    assert found["memory_bytes"] > 2**28
    assert found["versions"]["numpy"]
    assert found.get("gpus", [{}])  # none is listed, or some
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["--api-key", "abc", "--rate", "1"], ["--api-key", "***", "--rate", "1"]),
        (["--api-key=abc"], ["--api-key=***"]),
        (["--api-key-file", "key.txt"], ["--api-key-file", "key.txt"]),
        (["--prompt-tokens", "128"], ["--prompt-tokens", "128"]),
        (["https://me:word@host/v1"], ["https://***@host/v1"]),
    ],
    ids=["apart", "joined", "a file", "tokens of a model", "address"],
)
def test_secrets_are_cut_out_of_a_command(monkeypatch, given, shown):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/slimgpt", *given])
    assert command() == ["slimgpt", *shown]
