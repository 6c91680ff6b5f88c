"""Kills runs of a verb and lets a second one finish: ``killed_runs.py N SEED DIR VERB MODEL ...``.

Runs ``slimgpt VERB MODEL DIR/i ...`` N times. Each first run is killed at another moment, drawn
at random from the i-th part of the time that an undisturbed run takes. The libraries are imported
once and every run is forked, so that kills fall on the work and not on imports. Prints one JSON
object: how many runs were killed before they ended, what OUT.partial held then, and the exit codes
of the second runs.
"""

import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

import slimgpt.cli

TRIES = 4
USED = {
    "prune": ["slimgpt.prune.driver", "slimgpt.sampling"],
    "recover": ["slimgpt.recover.driver", "slimgpt.recover.trainer", "peft"],
    "compress": [
        "slimgpt.compress.pipeline",
        "slimgpt.compress.summary",
        "slimgpt.recover.trainer",
        "slimgpt.release.bom",
        "matplotlib.figure",
        "peft",
    ],
}


def fork(arguments: list[str]) -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(slimgpt.cli.run(arguments))
    return pid


def wait(pid: int) -> int:
    return os.waitpid(pid, 0)[1]


def timed(arguments: list[str]) -> float:
    started = time.monotonic()
    wait(fork(arguments))
    return time.monotonic() - started


def killed(arguments: list[str], after_s: float) -> bool:
    """Whether a run was still at work when it was killed."""
    pid = fork(arguments)
    time.sleep(after_s)
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(wait(pid))


def left(folder: str, out: str) -> list[str]:
    """What the killed run had made so far."""
    work = Path(folder, f"{out}.partial")
    return sorted(path.name for path in work.iterdir()) if work.is_dir() else []


def over(folder: str, out: str) -> bool:
    """Whether a run had nothing left to do but to exit; the same command would find OUT done."""
    return Path(folder, out).exists() and not Path(folder, f"{out}.partial").exists()


def main() -> None:
    torch.set_num_threads(1)
    rounds, seed, folder, (verb, model, *options) = (
        int(sys.argv[1]),
        int(sys.argv[2]),
        sys.argv[3],
        sys.argv[4:],
    )
    for module in (f"slimgpt.commands.{verb}", *USED[verb]):
        importlib.import_module(module)

    def command(out: str) -> list[str]:
        return [verb, model, f"{folder}/{out}", *options]

    moments = random.Random(seed)
    whole = min(timed(command(out)) for out in ("undisturbed", "undisturbed-too"))
    found, codes = [], []
    for i in range(rounds):
        for _ in range(TRIES):
            started = time.monotonic()
            still = killed(command(str(i)), whole * (i + moments.random()) / rounds)
            if still and not over(folder, str(i)):
                found.append(left(folder, str(i)))
                codes.append(os.waitstatus_to_exitcode(wait(fork(command(str(i))))))
                break
            # The machine had more to do before: the run ended first. Again, and sooner.
            whole = min(whole, time.monotonic() - started) * 0.9
            for path in Path(folder).glob(f"{i}*"):
                if path.name.split(".")[0] == str(i):
                    shutil.rmtree(path)
    sys.stdout.write(json.dumps({"killed": len(codes), "found": found, "exit_codes": codes}) + "\n")


if __name__ == "__main__":
    main()
