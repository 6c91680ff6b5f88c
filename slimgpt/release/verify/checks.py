"""What a checkpoint says of itself, held against its files; nothing is measured. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from slimgpt.checkpoint.digest import file_sha256, source_digest
from slimgpt.checkpoint.onnx_export import is_onnx, read_onnx
from slimgpt.checkpoint.quantized import METHOD, Quantized, is_quantized, read_quantized
from slimgpt.checkpoint.reader import CARD, MANIFEST, SIGNATURE, Checkpoint, read_config
from slimgpt.checkpoint.safety import inside
from slimgpt.errors import EnvironmentProblem, IntegrityError, SlimGPTError, UsageError
from slimgpt.progress import Progress, stage
from slimgpt.release.card.markdown import plain
from slimgpt.release.manifest import read_manifest
from slimgpt.release.signing import verify_signature
from slimgpt.release.verify.schema import Manifest
from slimgpt.shape import ModelShape

Status = Literal["passed", "failed", "not checked"]
_MOST_NAMES = 5


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        check: its name.
        status: ``passed``, ``failed`` or ``not checked``.
        detail: what was found, or why it was not checked.
        problem: of a check that was asked for and could not be made: the error that this is.
    """

    check: str
    status: Status
    detail: str
    problem: type[SlimGPTError] | None = None

    def to_json(self) -> dict[str, str]:
        return {"check": self.check, "status": self.status, "detail": self.detail}


def attempt(name: str, look: Callable[[], str]) -> Check:
    """A check from a function that says what it found, or raises.

    Wrong input fails the check; what this machine lacks leaves it open.
    """
    try:
        return Check(name, "passed", look())
    except EnvironmentProblem as reason:
        return Check(name, "not checked", str(reason), EnvironmentProblem)
    except (IntegrityError, UsageError) as reason:
        return Check(name, "failed", str(reason))


def check_files(directory: Path, manifest: Manifest, progress: Progress) -> Check:
    """Every listed file is there with its digest, and no other file is."""

    def look() -> str:
        found = _visible_files(directory)
        names = {name for name in manifest.files if _is_plain(name)}
        problems = {
            "is no plain relative path": set(manifest.files) - names,
            "is not listed": found - names - {MANIFEST, SIGNATURE},
            "lists itself": names & {MANIFEST},
        }
        problems |= _against_disk(directory, manifest.files, names - {MANIFEST}, progress)
        _refuse(problems)
        return f"{len(names)} files have the SHA-256 that {MANIFEST} lists, and there is no other"

    return attempt("files", look)


def _visible_files(directory: Path) -> set[str]:
    """Files that are not hidden, and links of every kind, as relative paths."""
    found = set()
    for path in directory.rglob("*"):
        relative = path.relative_to(directory)
        folder = path.is_dir() and not path.is_symlink()
        if not folder and not any(part.startswith(".") for part in relative.parts):
            found.add(relative.as_posix())
    return found


def _is_plain(name: str) -> bool:
    path = PurePosixPath(name)
    plain_path = str(path) == name and not path.is_absolute() and ".." not in path.parts
    return plain_path and name != "." and "\\" not in name and "\0" not in name


def _against_disk(
    directory: Path, digests: Mapping[str, str], names: set[str], progress: Progress
) -> dict[str, set[str]]:
    missing, outside, changed = set(), set(), set()
    with stage(progress, "checking files", len(names)):
        for name in sorted(names):
            path = directory / name
            try:
                if not (path.exists() or path.is_symlink()):
                    missing.add(name)
                elif file_sha256(inside(directory, path)) != digests[name]:
                    changed.add(name)
            except IntegrityError:
                outside.add(name)
            except OSError:  # too long for a name, say
                missing.add(name)
            progress.advance()
    return {
        "is missing": missing,
        "is no file of the checkpoint": outside,
        "has another SHA-256": changed,
    }


def _refuse(problems: Mapping[str, Iterable[str]]) -> None:
    """Raises one error for all problems there are, with the first names of each."""
    found = []
    for problem, names in problems.items():
        listed = sorted(names)
        if listed:
            more = f" and {len(listed) - _MOST_NAMES} more" if len(listed) > _MOST_NAMES else ""
            found.append(f"{', '.join(map(plain, listed[:_MOST_NAMES]))}{more}: {problem}")
    if found:
        raise IntegrityError("; ".join(found))


def check_weights(directory: Path) -> tuple[Check, ModelShape | None]:
    """The headers of the weight files agree with config.json; the model's shape, if they do."""
    shapes: list[ModelShape] = []

    def look() -> str:
        if is_onnx(directory):
            shapes.append(_exported(directory))
            return "the graph and its weights are whole, with the widths of config.json"
        found = _quantized(directory) if is_quantized(directory) else Checkpoint(directory)
        shapes.append(found.meta.shape)
        return f"{len(found.files)} weight files hold what config.json asks for"

    return attempt("weights", look), shapes[0] if shapes else None


def _exported(directory: Path) -> ModelShape:
    found, shape = read_onnx(directory), read_config(directory).shape
    if found.shape != shape.to_manifest():
        raise IntegrityError("the widths in model.onnx are not those of config.json")
    claimed: Any = read_manifest(directory) or {}
    for key in ("recipe", "export"):
        claimed = claimed.get(key) if isinstance(claimed, Mapping) else None
    told = {"precision": found.precision, "model_digest": found.source}
    if not (isinstance(claimed, Mapping) and told.items() <= claimed.items()):
        raise IntegrityError(f"model.onnx tells of another export than the one in {MANIFEST}")
    return shape


def _quantized(directory: Path) -> Quantized:
    found = read_quantized(directory)
    if found.method != METHOD:  # of others, nothing but the config has been read
        raise IntegrityError(f"quantised by {found.method}, which slimgpt does not know")
    return found


def check_shape(model: ModelShape, manifest: Manifest) -> list[Check]:
    """Shape and parameter counts of the manifest are those of config.json."""
    actual = model.to_manifest()
    claimed = manifest.shape.model_dump()
    counts = manifest.parameters

    def shape() -> str:
        differing = [key for key in ("hidden_size", "head_dim") if actual[key] != claimed[key]]
        layers = list(zip(actual["layers"], claimed["layers"], strict=False))
        differing += [f"layer {i}" for i, (a, b) in enumerate(layers) if a != b]
        if len(actual["layers"]) != len(claimed["layers"]):
            differing.append(f"{len(claimed['layers'])} layers, not {len(actual['layers'])}")
        _refuse({f"{MANIFEST} says otherwise than config.json": differing})
        return f"{len(layers)} layers have the widths that {MANIFEST} lists"

    def parameters() -> str:
        expected = {
            "after": model.parameters,
            "decoder_after": model.decoder_parameters,
        }
        wrong = [
            f"{k} is {getattr(counts, k):,}" for k, v in expected.items() if getattr(counts, k) != v
        ]
        if wrong:
            are = f"the weights have {expected['after']:,}, {expected['decoder_after']:,} of them"
            raise IntegrityError(f"{', '.join(wrong)}, but {are} in decoder layers")
        return f"{counts.after:,} ({counts.decoder_after:,} in decoder layers)"

    return [attempt("shape", shape), attempt("parameters", parameters)]


def check_source(source: Path | None, manifest: Manifest) -> Check:
    """The dense checkpoint is the one that the manifest names by its digest."""
    if source is None:
        return Check("source", "not checked", "give --source with the dense model")

    def look() -> str:
        dense = Checkpoint(source)
        found, counts = source_digest(dense), manifest.parameters
        if found != manifest.source.digest:
            raise IntegrityError(
                f"--source {source} has the digest {found}, and {MANIFEST} names "
                f"{manifest.source.digest}"
            )
        shape = dense.shape
        if (counts.before, counts.decoder_before) != (shape.parameters, shape.decoder_parameters):
            raise IntegrityError(
                f"parameters before are {counts.before:,} and {counts.decoder_before:,}, but "
                f"--source has {shape.parameters:,} and {shape.decoder_parameters:,}"
            )
        return f"--source has the digest of {plain(manifest.source.name)}"

    return attempt("source", look)


def check_signature(directory: Path, public_key: Path | None) -> Check:
    """``model.sig`` is of these files and was made with the key."""
    path = directory / SIGNATURE
    signed = path.exists() or path.is_symlink()
    if public_key is None:
        why = "give --public-key" if signed else f"there is no {SIGNATURE}"
        return Check("signature", "not checked", why)

    def look() -> str:
        if not signed:
            raise IntegrityError(f"there is no {SIGNATURE}, and --public-key asks for one")
        verify_signature(directory, public_key)
        return f"{SIGNATURE} was made with the key of {public_key}"

    return attempt("signature", look)


def check_card(directory: Path, quality: Mapping[str, Any]) -> Check:
    """The results in the card's metadata are those of the manifest."""
    from slimgpt.release.card.metadata import results, stated_results

    def look() -> str:
        path = directory / CARD
        if not path.is_file():
            raise IntegrityError(f"there is no {CARD}")
        stated = stated_results(inside(directory, path))
        if stated != results(quality):
            raise IntegrityError(f"the results in {CARD} are not those of {MANIFEST}")
        return f"{CARD} states the {len(stated)} results of {MANIFEST}"

    return attempt("card", look)
