"""Kills a job at one change of the disk after the other: ``killed_steps.py EVERY DIR MODEL ...``.

Runs ``slimgpt compress MODEL DIR/i ...`` once for every EVERY-th call that changes a directory or
flushes a file, and for each of the last ones; that call is where the run is killed, and a second
run ends it. Prints one JSON object: for each, the call, the two exit codes, and whether OUT was
there after the first, whether OUT.partial was there after the second.
"""

import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

import slimgpt.cli
from tests.killed_runs import USED, wait

CALLS = ("replace", "rename", "unlink", "rmdir", "link", "mkdir", "fsync")
LAST = 12


def run(arguments: list[str], calls: Path, kill_at: int = 0) -> int:
    """Runs in a fork; the calls that it makes go to a file."""
    pid = os.fork()
    if pid == 0:
        made: list[str] = []

        def watched(name: str) -> Any:
            real = getattr(os, name)

            def call(*args: Any, **kwargs: Any) -> Any:
                made.append(f"{name} {Path(str(args[0])).name}")
                if len(made) == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kwargs)

            return call

        for name in CALLS:
            setattr(os, name, watched(name))
        code = slimgpt.cli.run(arguments)
        calls.write_text("\n".join(made))
        os._exit(code)
    return os.waitstatus_to_exitcode(wait(pid))


def main() -> None:
    torch.set_num_threads(1)
    every, folder, (model, *options) = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    for module in ("slimgpt.commands.compress", *USED["compress"]):
        importlib.import_module(module)

    def command(out: str) -> list[str]:
        return ["compress", model, f"{folder}/{out}", *options]

    calls = folder / "calls"
    run(command("undisturbed"), calls)
    made = calls.read_text().splitlines()
    ends = []
    for i in sorted({*range(1, len(made) - LAST, every), *range(len(made) - LAST, len(made) + 1)}):
        killed = run(command(str(i)), calls, kill_at=i)
        published = (folder / str(i)).exists()
        code = run(command(str(i)), calls)
        left = (folder / f"{i}.partial").exists()
        end = {"call": made[i - 1], "killed": killed, "published": published, "code": code}
        ends.append({"out": str(i), **end, "left": left})
    calls.unlink()
    sys.stdout.write(json.dumps(ends) + "\n")


if __name__ == "__main__":
    main()
