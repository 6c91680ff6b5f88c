"""Kills runs of ``slimgpt prune`` and lets a second one finish: ``killed_runs.py N DIR ARGS...``.

Prunes into N directories below DIR. Each first run is killed at another moment, spread over the
time that an undisturbed run takes. The libraries are imported once and every run is forked, so
that kills fall on the work and not on imports. Prints one JSON object: how many runs were killed
before they ended, and the exit codes of the second runs.
"""

import json
import os
import signal
import sys
import time

import torch

import slimgpt.cli
import slimgpt.commands.prune
import slimgpt.prune.driver
import slimgpt.sampling


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


def main() -> None:
    torch.set_num_threads(1)
    rounds, folder, (model, *options) = int(sys.argv[1]), sys.argv[2], sys.argv[3:]

    def command(out: str) -> list[str]:
        return ["prune", model, f"{folder}/{out}", *options]

    whole = min(timed(command(out)) for out in ("undisturbed", "undisturbed-too"))
    killed, codes = 0, []
    for i in range(rounds):
        pid = fork(command(str(i)))
        time.sleep(whole * (i + 0.5) / rounds)
        os.kill(pid, signal.SIGKILL)
        if os.WIFSIGNALED(wait(pid)):
            killed += 1
            codes.append(os.waitstatus_to_exitcode(wait(fork(command(str(i))))))
    sys.stdout.write(json.dumps({"killed": killed, "exit_codes": codes}) + "\n")


if __name__ == "__main__":
    main()
