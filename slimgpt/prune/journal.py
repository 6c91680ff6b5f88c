"""The work directory of a run: what is finished, durable, and of which recipe.

``OUT.partial/`` beside OUT holds the fingerprint of the run, one file a finished block, and the
checkpoint while it is put together. Every file in it is whole or absent, so that a run killed at
any moment goes on where it was.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from slimgpt.checkpoint.writer import sync, write_durably
from slimgpt.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

_RUN = "run.json"
_LOCK = "slimgpt.lock"


class Journal:
    """An open work directory, locked against a second run.

    Attributes:
        directory: ``OUT.partial``.
    """

    def __init__(self, out: Path) -> None:
        self.directory = work_directory(out)
        self._lock: IO[str] | None = None

    def open(self, fingerprint: Mapping[str, Any], *, fresh: bool) -> int:
        """Starts or resumes a run.

        Args:
            fingerprint: everything that decides the resulting bytes.
            fresh: throw away what an earlier run left.

        Returns:
            how many decoder layers are finished.

        Raises:
            UsageError: another run is at work here, or left work of another recipe.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        if fresh:
            self._clear()
        run = self.directory / _RUN
        if run.exists():
            self._require_same(run, fingerprint)
        else:
            self._clear()
            (self.directory / "blocks").mkdir()
            partial = run.with_suffix(".partial")
            partial.write_text(json.dumps(fingerprint, indent=2, sort_keys=True), "utf-8")
            sync(partial)
            partial.replace(run)
            sync(self.directory)
        return self._finished_layers()

    @property
    def outer(self) -> Path:
        """File of the tensors outside the decoder layers."""
        return self.directory / "blocks" / "outer.safetensors"

    def block(self, layer: int) -> Path:
        """File of a finished layer."""
        return self.directory / "blocks" / f"layer-{layer:05}.safetensors"

    def finish_layer(
        self, layer: int, tensors: Mapping[str, Tensor], record: Mapping[str, Any]
    ) -> None:
        """Makes a layer and its record durable, as one file."""
        write_durably(self.block(layer), tensors, {"record": json.dumps(record)})

    def read_layer(self, layer: int) -> dict[str, Tensor]:
        """A finished layer.

        Raises:
            IntegrityError: the file was damaged since.
        """
        from safetensors import SafetensorError, safe_open

        path = self.block(layer)
        try:
            with safe_open(path, framework="pt") as file:
                return {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            raise IntegrityError(f"{path} is damaged: start again with --fresh") from None

    def read_record(self, layer: int) -> dict[str, Any]:
        """The record of a finished layer, without its tensors."""
        from safetensors import safe_open

        with safe_open(self.block(layer), framework="pt") as file:
            record: dict[str, Any] = json.loads(file.metadata()["record"])
        return record

    def staging(self) -> Path:
        """An empty directory for the finished checkpoint."""
        path = self.directory / "publish"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def remove(self) -> None:
        """Deletes the work directory and gives up the lock, which goes last: it marks our work."""
        self._clear()
        shutil.rmtree(self.directory)
        self.close()

    def close(self) -> None:
        """Gives up the lock and leaves the work for a later run."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def _take_lock(self) -> None:
        self._lock = (self.directory / _LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise UsageError(
                f"another run is writing {self.directory}: wait for it, or give another OUT"
            ) from None

    def _clear(self) -> None:
        # First what says that the rest is whole, so that a kill in the middle leaves nothing.
        (self.directory / _RUN).unlink(missing_ok=True)
        for path in self.directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != _LOCK:
                path.unlink()

    def _require_same(self, run: Path, fingerprint: Mapping[str, Any]) -> None:
        try:
            before = json.loads(run.read_text("utf-8"))
        except ValueError:
            raise IntegrityError(f"{run} is damaged: start again with --fresh") from None
        now = json.loads(json.dumps(fingerprint))
        differing = [key for key in now | before if now.get(key) != before.get(key)]
        if differing:
            raise UsageError(
                f"{self.directory} holds an unfinished run with another {', '.join(differing)}: "
                "give the options of that run, or --fresh to throw it away"
            )

    def _finished_layers(self) -> int:
        count = 0
        while self.block(count).exists():
            count += 1
        return count


def is_work(directory: Path) -> bool:
    """Whether a directory is a run's work, or one that was killed before it put its lock there."""
    if directory.is_symlink() or not directory.is_dir():
        return False
    return (directory / _LOCK).exists() or not any(directory.iterdir())


def work_bytes(out: Path) -> int:
    """Disk that an earlier run for OUT holds, and the next one uses again or frees."""
    held = 0
    with suppress(FileNotFoundError):  # another run is at work there, which the lock will tell
        for path in work_directory(out).rglob("*"):
            held += path.lstat().st_blocks * 512
    return held


def work_directory(out: Path) -> Path:
    """Where a run for OUT keeps its work."""
    return out.with_name(out.name + ".partial")
