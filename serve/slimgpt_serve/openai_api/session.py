"""One server of an ONNX export from the user's options: everything is checked, and it can start."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.digest import file_sha256
from slimgpt.checkpoint.onnx_export import is_onnx
from slimgpt.checkpoint.reader import MANIFEST
from slimgpt.errors import UsageError
from slimgpt_serve.launcher.access import Access, access
from slimgpt_serve.launcher.address import Address, claim
from slimgpt_serve.onnx_runtime.artefact import IN_PLACE, OnnxArtefact, read_artefact
from slimgpt_serve.onnx_runtime.installed import require_one_runtime
from slimgpt_serve.onnx_runtime.session import may_run_on_gpu, require_device
from slimgpt_serve.openai_api.packages import require_server
from slimgpt_serve.openai_api.room import Room, find_room
from slimgpt_serve.preflight.machine import free_memory_bytes

_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,3})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options of ``slimgpt serve --engine onnx``, under their own names.

    Attributes:
        model: MODEL as the user gave it, and its directory.
        environ: of this process.
        quiet: nothing can be shown on standard error.
        dry_run: nothing is to be started.
    """

    model: tuple[str, Path]
    host: str
    port: int
    api_key_file: Path | None
    max_model_len: int | None
    max_concurrency: int
    max_waiting: int
    threads: int | None
    dtype: str
    device: str
    seed: int
    environ: Mapping[str, str]
    quiet: bool
    dry_run: bool


@dataclass(frozen=True, slots=True)
class Session:
    """A server that may be started.

    Attributes:
        name: of the model, as the user gave it.
        served_name: what clients ask for.
        room: what it holds.
        address: where it listens.
        access: who may ask.
        digest: that tells this export from another.
        asked: the user's options.
    """

    name: str
    served_name: str
    room: Room
    address: Address
    access: Access
    digest: str
    asked: Asked

    @property
    def artefact(self) -> OnnxArtefact:
        return self.room.artefact

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` says of it before it runs; no key is in it."""
        return {
            "model": self.name,
            "served_model_name": self.served_name,
            "engine": "onnx",
            "preflight": self.room.to_json() | {"max_waiting": self.asked.max_waiting},
        }


def prepare(asked: Asked) -> Session:
    """Checks all that can be checked before the weights are read, what costs least first.

    Raises:
        UsageError: options that can't be met anywhere.
        IntegrityError: MODEL is damaged.
        EnvironmentProblem: this machine can't meet them.
    """
    name, directory = asked.model
    _require_served_here(name, directory, asked)
    who = access(asked.host, asked.api_key_file, asked.environ, quiet=asked.quiet)
    require_server()
    require_one_runtime()
    artefact = read_artefact(directory)
    if artefact.cache != IN_PLACE:
        raise UsageError(
            f"{name} is a portable export, whose caches are copied with every token: it is not "
            "served; export it again without --portable"
        )
    require_device(asked.device, artefact.dtype, name, in_place=True)
    # A GPU's memory is known when the graph is on it.
    on_cpu = asked.device == "cpu" or (asked.device == "auto" and not may_run_on_gpu(artefact))
    free = free_memory_bytes() if on_cpu else None
    room = find_room(artefact, asked.max_model_len, asked.max_concurrency, free)
    address = Address(asked.host, asked.port) if asked.dry_run else claim(asked.host, asked.port)
    return Session(
        name=name,
        served_name=Path(name).expanduser().resolve().name if Path(name).is_dir() else name,
        room=room,
        address=address,
        access=who,
        digest=_digest(artefact),
        asked=asked,
    )


def _require_served_here(name: str, directory: Path, asked: Asked) -> None:
    if not is_onnx(directory):
        raise UsageError(
            f"{name} is no ONNX export, which --engine onnx serves: make one with slimgpt export "
            f"onnx {name} DIR, or give --engine vllm"
        )
    if asked.dtype != "auto":
        raise UsageError(
            f"--dtype {asked.dtype}: the precision of an ONNX export is fixed; export it again "
            "with slimgpt export onnx --precision"
        )
    if not _DEVICE.fullmatch(asked.device):
        raise UsageError(f"--device {asked.device}: give auto, cpu, cuda or cuda:0, cuda:1, ...")


def _digest(artefact: OnnxArtefact) -> str:
    """SHA-256 of the manifest; without one of the graph, which names its source."""
    manifest = artefact.directory / MANIFEST
    return file_sha256(manifest if manifest.is_file() else artefact.model)
