"""The work directory of a run: locked, of one recipe, gone when the run is over.

``OUT.partial/`` beside OUT holds the fingerprint of the run, what is finished, and the result while
it is put together. Every file in it is whole or absent, so that a run killed at any moment goes on
where it was.
"""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from slimgpt.checkpoint.safety import read_json
from slimgpt.checkpoint.writer import write_text_durably
from slimgpt.errors import EnvironmentProblem, IntegrityError, UsageError

_RUN = "run.json"
_LOCK = "slimgpt.lock"
_MOST_NAMES = 5


class Workspace:
    """An open work directory, locked against a second run.

    Attributes:
        directory: ``OUT.partial``.
    """

    def __init__(self, out: Path) -> None:
        self.directory = work_directory(out)
        self._lock: IO[str] | None = None

    def claim(self, fingerprint: Mapping[str, Any], *, fresh: bool) -> bool:
        """Starts or resumes a run.

        Args:
            fingerprint: everything that decides the resulting bytes.
            fresh: throw away what an earlier run left.

        Returns:
            whether there is work of an earlier run to go on with.

        Raises:
            UsageError: another run is at work here, or left work of another recipe.
            EnvironmentProblem: the file system knows no locks.
            IntegrityError: the work of an earlier run is damaged.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        if fresh:
            self._clear()
        run = self.directory / _RUN
        if run.exists() and self._holds_work():
            self._require_same(run, fingerprint)
            return True
        self._clear()
        write_text_durably(run, json.dumps(fingerprint, indent=2, sort_keys=True))
        return False

    def staging(self) -> Path:
        """An empty directory for the finished checkpoint."""
        path = self.directory / "publish"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def remove(self) -> None:
        """Deletes the work directory and gives up the lock, which goes last: it marks our work.

        What takes long goes first: a run that is killed meanwhile is still known by its records,
        and the next one ends what it began.
        """
        for path in self.directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
        self._clear()
        shutil.rmtree(self.directory)
        self.close()

    def close(self) -> None:
        """Gives up the lock and leaves the work for a later run."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def _take_lock(self) -> None:
        self._lock = (self.directory / _LOCK).open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as reason:
            self.close()
            if reason.errno not in (errno.EAGAIN, errno.EACCES):  # a Lustre without flock, say
                raise EnvironmentProblem(
                    f"{self.directory} can't be locked ({reason.strerror}): give an OUT on another "
                    "file system"
                ) from None
            raise UsageError(
                f"another run is writing {self.directory}: wait for it, or give another OUT"
            ) from None

    def _holds_work(self) -> bool:
        """Whether a run got further than to claim: a mistake it ended with is not kept."""
        files = (path for path in self.directory.rglob("*") if path.is_file())
        return any(path.name not in (_RUN, _LOCK) for path in files)

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
            before = read_json(run)
        except IntegrityError:
            raise IntegrityError(f"{run} is damaged: start again with --fresh") from None
        differing = list(_differing(before, json.loads(json.dumps(fingerprint))))
        if differing:
            more = len(differing) - _MOST_NAMES
            names = ", ".join(differing[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
            raise UsageError(
                f"{self.directory} holds an unfinished run with another {names}: "
                "give the options of that run, or --fresh to throw it away"
            )


def _differing(before: Any, now: Any, key: str = "") -> Iterator[str]:
    """Keys that two JSON values differ in, like ``recipe.prune.ratio``, missing ones too."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in now | before:
            inner = f"{key}.{name}" if key else name
            yield from _differing(before.get(name), now.get(name), inner)
    elif before != now:
        yield key


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
