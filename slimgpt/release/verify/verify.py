"""Is a checkpoint intact, and is what it claims true?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.reader import MANIFEST, read_config
from slimgpt.errors import IntegrityError, SlimGPTError
from slimgpt.progress import Progress, Silent
from slimgpt.release.verify.checks import (
    Check,
    attempt,
    check_card,
    check_files,
    check_shape,
    check_signature,
    check_source,
    check_weights,
)
from slimgpt.release.verify.schema import Manifest, load_manifest
from slimgpt.shape import ModelShape

_NOT_AGAIN = {
    "recovery": "losses of the recovery are of examples that were kept back while training",
    "quantization": "what quantising lost was measured beside the model that it was made from",
    "export": "its logits were compared with those of the model that it was made from, once",
}
"""What a manifest tells of how the model was made, and why it is not measured again."""


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """What a checkpoint is held against.

    Attributes:
        source: the dense checkpoint.
        quick: leave out what must be measured.
        data: files and folders with the texts and tasks of the claims.
        public_key: of the signature, in PEM.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
        dtype: to measure in where a claim names none.
    """

    source: Path | None = None
    quick: bool = False
    data: Sequence[Path] = ()
    public_key: Path | None = None
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True, slots=True)
class Verification:
    """Every check that was made."""

    checks: tuple[Check, ...]
    quick: bool = False

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if check.status == "failed"]

    @property
    def unresolved(self) -> list[Check]:
        """Checks that were asked for and could not be made."""
        return [check for check in self.checks if check.problem]

    def to_json(self) -> dict[str, Any]:
        """The document of ``slimgpt verify --json``."""
        verified = not (self.failed or self.unresolved)
        return {"verified": verified, "checks": [check.to_json() for check in self.checks]}

    def require(self, model: str) -> None:
        """Passes if everything that was asked for holds.

        Raises:
            IntegrityError: a check failed.
            EnvironmentProblem: this machine can't make a check.
            Unresolved: something is lacking that a check needs.
        """
        if self.failed:
            names = ", ".join(check.check for check in self.failed)
            raise IntegrityError(
                f"{model} failed {len(self.failed)} of {len(self.checks)} checks: {names}"
            )
        for kind in sorted({c.problem for c in self.unresolved if c.problem}, key=_gravest):
            lacking = dict.fromkeys(c.detail for c in self.unresolved if c.problem is kind)
            way_out = "" if self.quick else "; or leave measuring out with --quick"
            raise kind(f"{model} is not verified to the end: {'; '.join(lacking)}{way_out}")


def _gravest(kind: type[SlimGPTError]) -> int:
    return -kind.exit_code


def verify(
    directory: Path, options: VerifyOptions, progress: Progress | None = None
) -> Verification:
    """Makes every check that can be made; a failed one does not stop those after it.

    Without ``quick``, and if all else holds, what is claimed is measured again.

    Args:
        directory: the checkpoint.
        options: what it is held against.
        progress: watches.

    Raises:
        IntegrityError: the checkpoint has no manifest, so that there is nothing to verify.
        UsageError: ``--data`` or ``--public-key`` can't be used.
    """
    watcher = progress or Silent()
    manifests: list[tuple[Manifest, dict[str, Any]]] = []

    def look() -> str:
        manifests.append(load_manifest(directory))
        return f"{MANIFEST} is well-formed"

    if not _has_manifest(directory):
        load_manifest(directory)  # says that there is none
    checks = [attempt("manifest", look)]
    weights, shape = check_weights(directory)
    if not manifests:
        checks += [weights, check_signature(directory, options.public_key)]
        return Verification(tuple(checks), options.quick)
    manifest, document = manifests[0]
    checks += [check_files(directory, manifest, watcher), weights]
    checks += check_shape(shape, manifest) if shape else []
    source = check_source(options.source, manifest)
    checks += [source, check_signature(directory, options.public_key)]
    checks.append(check_card(directory, document["quality"]))
    dense = options.source if source.status == "passed" else None
    if shape:
        checks += _gates(manifest, shape, dense)
    checks += _claims(directory, manifest, options, dense, checks, watcher)
    for what, why in _NOT_AGAIN.items():
        if document["quality"].get(what):
            checks.append(Check(what, "not checked", why))
    return Verification(tuple(checks), options.quick)


def _has_manifest(directory: Path) -> bool:
    path = directory / MANIFEST
    return path.exists() or path.is_symlink()


def _gates(manifest: Manifest, model: ModelShape, dense: Path | None) -> list[Check]:
    from slimgpt.release.verify.gate_checks import check_gates

    return check_gates(manifest, model, read_config(dense).shape if dense else None)


def _claims(
    directory: Path,
    manifest: Manifest,
    options: VerifyOptions,
    dense: Path | None,
    before: Sequence[Check],
    progress: Progress,
) -> list[Check]:
    """The claims measured again, or the one reason why they are not."""
    quality = manifest.quality
    if not (quality.texts or quality.tasks or quality.accuracy):
        return [Check("claims", "not checked", f"{MANIFEST} claims no measured quality")]
    if options.quick:
        return [Check("claims", "not checked", "--quick leaves measuring out")]
    if any(check.status == "failed" for check in before):
        return [Check("claims", "not checked", "not measured, as a check above failed")]
    from slimgpt.release.verify.claims import Measuring, check_claims

    measuring = Measuring(directory, dense, options.data, options.device, options.dtype, progress)
    return check_claims(quality, measuring)
