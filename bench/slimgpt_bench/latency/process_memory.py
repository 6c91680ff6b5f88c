"""What the kernel says that a process and its children hold."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

_KIB = 1024


@dataclass(frozen=True, slots=True)
class Held:
    """Memory of a process and all its children.

    Attributes:
        pss_bytes: proportional set size: pages that n processes share count 1/n for each, so
            another process that starts with the same libraries makes it less; None where the
            system does not say.
        anonymous_bytes: of these, what no file is behind, like tensors: libraries are not in it.
        high_water_bytes: most resident memory since each process started (VmHWM), summed over
            them: beyond the true peak where they peaked at different times.
        processes: that were counted.
    """

    pss_bytes: int | None
    anonymous_bytes: int | None
    high_water_bytes: int | None
    processes: int

    def to_json(self) -> dict[str, int | None]:
        return asdict(self)


def held(pid: int) -> Held:
    """What a process holds now, and has held at most.

    Args:
        pid: of a living process of this user.
    """
    tree = _tree(pid)
    return Held(
        _sum(tree, "smaps_rollup", "Pss"),
        _sum(tree, "smaps_rollup", "Pss_Anon"),
        _sum(tree, "status", "VmHWM"),
        len(tree),
    )


def forget_high_water() -> bool:
    """Sets this process's high-water mark to what it holds now; false where that can't be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    except OSError:
        return False
    return True


def _tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for parent in found:  # grows while it is walked
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += [int(x) for x in children.read_text("ascii").split()]
            except OSError:  # the thread is over
                continue
    return found


def _sum(tree: list[int], file: str, key: str) -> int | None:
    """Of those that are still there; None for none."""
    told = [_field(Path(f"/proc/{pid}/{file}"), key) for pid in tree]
    found = [x for x in told if x is not None]
    return sum(found) if found else None


def _field(path: Path, key: str) -> int | None:
    """Bytes of a kB field; None where there is none."""
    try:
        lines = path.read_text("ascii").splitlines()
    except OSError:
        return None
    values = [int(x.split()[1]) * _KIB for x in lines if x.startswith(f"{key}:")]
    return values[0] if values else None
