"""A Dockerfile as data: its instructions, and what its .dockerignore lets into the context."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "docker"
IMAGES = ("compress", "serve", "bench")

_FLAG = re.compile(r"--[a-z-]+=\S+\s+")


@dataclass(frozen=True)
class Instruction:
    """One of them, its continued lines joined.

    Attributes:
        name: ``RUN``, ``COPY`` and so on.
        flags: such as ``--from=build``; ``--mount`` may come more than once.
        text: what follows the flags.
        stage: of how many ``FROM`` it is below; 0 for what stands above the first.
    """

    name: str
    flags: tuple[str, ...]
    text: str
    stage: int

    def words(self) -> list[str]:
        """Of the text, in JSON or as a shell splits it."""
        if self.text.startswith("["):
            return cast("list[str]", json.loads(self.text))
        return shlex.split(self.text)

    def assignments(self) -> dict[str, str]:
        """Of an ``ENV`` or ``LABEL``; ``ARG`` without a default gives an empty string."""
        return {name: value for name, _, value in (word.partition("=") for word in self.words())}


def path_of(image: str) -> Path:
    return FOLDER / f"{image}.Dockerfile"


def instructions(image: str) -> list[Instruction]:
    """Of the image's Dockerfile, in order."""
    lines = [
        line
        for line in path_of(image).read_text().splitlines()
        if not line.lstrip().startswith("#")
    ]
    found: list[Instruction] = []
    stage = 0
    for statement in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if not statement.strip():
            continue
        name, _, rest = statement.partition(" ")
        rest, flags = rest.strip(), []
        while match := _FLAG.match(rest):
            flags.append(match.group().strip())
            rest = rest[match.end() :]
        stage += name == "FROM"
        found.append(Instruction(name, tuple(flags), rest, stage))
    return found


def final(image: str, name: str) -> list[Instruction]:
    """Those of one name in the last stage: what the image is made of."""
    every = instructions(image)
    return [each for each in every if each.name == name and each.stage == every[-1].stage]


def context(image: str, root: Path = REPOSITORY) -> set[str]:
    """The files below ``root`` that the builder is sent, by Docker's own matcher."""
    build = pytest.importorskip(
        "docker.utils.build", reason="needs the Docker SDK: pip install docker"
    )
    ignore = path_of(image).with_name(f"{image}.Dockerfile.dockerignore")
    patterns = [
        line for line in ignore.read_text().splitlines() if line and not line.startswith("#")
    ]
    # The SDK adds the Dockerfile itself, which BuildKit sends apart.
    dockerfile = "Dockerfile.not.there"
    sent = build.exclude_paths(str(root), patterns, dockerfile=dockerfile)
    return {path for path in sent if (root / path).is_file()}
