"""The real command line on a desk of its own, held to what INTERFACE.md says of a user's mistakes.

The model on it is the embedded one cut to two layers, with its tokenizer: every verb works on it,
in a second or two.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from slimgpt.cli import run
from slimgpt.demo import CALIBRATION, MODEL

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
LAYERS = 2
SHORT = ("--samples", "8", "--sequence-length", "32")
EXECUTABLE = Path(sys.executable).with_name("slimgpt")

USAGE, ENVIRONMENT, INTEGRITY = 2, 4, 5


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


def write_small(path: Path) -> None:
    """The embedded model without all but its first layers."""
    shutil.copytree(MODEL, path)
    desk = Desk(path.parent, path.name)
    desk.edit_config(num_hidden_layers=LAYERS)
    kept = [f"model.layers.{i}." for i in range(LAYERS)]
    desk.edit_weights(
        lambda weights: [
            weights.pop(name)
            for name in list(weights)
            if name.startswith("model.layers.") and not name.startswith(tuple(kept))
        ]
    )


class Desk:
    """A folder with a model that may be spoiled, and the commands that are given it.

    Attributes:
        root: the folder; nothing but ``model`` is in it at first.
        model: a checkpoint.
        out: where results would go.
    """

    def __init__(
        self, root: Path, model: str = "model", capture: pytest.CaptureFixture[str] | None = None
    ) -> None:
        self.root, self.model, self.out = root, root / model, root / "out"
        self._capture = capture

    # -- spoiling -------------------------------------------------------------------------------

    def edit_config(self, **changes: Any) -> None:
        path = self.model / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    def drop_config(self, *keys: str) -> None:
        path = self.model / "config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in config.items() if k not in keys}))

    def edit_weights(self, edit: Callable[[dict[str, Tensor]], object]) -> None:
        weights = load_file(self.model / WEIGHTS)
        edit(weights)
        save_file(weights, self.model / WEIGHTS, {"format": "pt"})

    def shard(self) -> dict[str, str]:
        """Splits the weights into two shards and returns the weight map."""
        weights = load_file(self.model / WEIGHTS)
        (self.model / WEIGHTS).unlink()
        names = sorted(weights)
        where: dict[str, str] = {}
        for number, part in enumerate((names[::2], names[1::2]), 1):
            shard = f"model-{number:05}-of-00002.safetensors"
            save_file({n: weights[n] for n in part}, self.model / shard, {"format": "pt"})
            where |= dict.fromkeys(part, shard)
        self.write_index(where)
        return where

    def write_index(self, weight_map: Any) -> None:
        (self.model / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    def link_out(self, name: str) -> None:
        """Moves a file of the model elsewhere and leaves a link to it."""
        elsewhere = self.root / f"secret-{name}"
        shutil.move(self.model / name, elsewhere)
        (self.model / name).symlink_to(elsewhere)

    # -- running --------------------------------------------------------------------------------

    def prune(self, *options: str | Path) -> list[str]:
        """A prune command; what is given twice counts as given last."""
        command = ["prune", self.model, self.out, "--ratio", "0.25", *SHORT]
        if "--calibration" not in options:
            command += ["--calibration", CALIBRATION]
        return [str(x) for x in (*command, *options)]

    def fill(self, arguments: Iterable[str]) -> list[str]:
        """Arguments with ``{root}``, ``{model}`` and ``{out}`` put in."""
        return [x.format(root=self.root, model=self.model, out=self.out) for x in arguments]

    def run(self, arguments: Iterable[str]) -> Ended:
        """Runs the command line in this process."""
        assert self._capture
        self._capture.readouterr()
        code = run(list(arguments))
        return Ended(code, *self._capture.readouterr())

    def execute(self, arguments: Iterable[str], **environment: str) -> Ended:
        """Runs the installed executable, without a network."""
        done = subprocess.run(
            [EXECUTABLE, *arguments],
            capture_output=True,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def contents(self) -> dict[str, Any]:
        """Everything on the desk: kind, size, time of change and target of each path."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            state = path.lstat()
            target = path.readlink() if path.is_symlink() else None
            found[str(path)] = (state.st_mode, state.st_size, state.st_mtime_ns, target)
        return found

    def refuses(
        self,
        arguments: Iterable[str],
        code: int,
        *says: str,
        how: Callable[[Iterable[str]], Ended] | None = None,
    ) -> None:
        """The command ends in one line that says this, with this code, and changes nothing."""
        before = self.contents()
        ended = (how or self.run)(arguments)
        assert (ended.code, ended.stdout) == (code, ""), ended
        lines = ended.stderr.splitlines()
        assert len(lines) == 1, ended.stderr
        assert lines[0].startswith("slimgpt: ")
        for words in says:
            assert words in lines[0]
        assert self.contents() == before
