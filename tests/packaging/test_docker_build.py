"""Every RUN line is carried out here, or stands below with the reason why it can't be."""

import json
import subprocess
from pathlib import Path

import pytest

from slimgpt import __version__
from tests.packaging.dockerfile import IMAGES, Instruction, final, instructions
from tests.packaging.image_building import Build

pytestmark = [pytest.mark.packaging, pytest.mark.slow]

NOT_RUN = {"groupadd": "makes a user of the machine, which takes root"}
"""First words of the lines that no test carries out."""
JOBS = ("compress", "bench")


def _runs(image: str, stage: int) -> list[Instruction]:
    return [
        each
        for each in instructions(image)
        if each.stage == stage and not each.text.startswith(tuple(NOT_RUN))
    ]


@pytest.fixture(scope="module", params=JOBS)
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The first stage of a job's image, carried out; its name is ``job.image``."""
    build = Build(request.param, tmp_path_factory.mktemp(request.param))
    build.carry_out(*_runs(request.param, 1))
    return build


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Both stages of the server's image, on a base that holds all of our requirements."""
    build = Build("serve", tmp_path_factory.mktemp("serve"))
    build.carry_out(*_runs("serve", 1))
    return build


@pytest.mark.parametrize("image", IMAGES)
def test_every_run_line_is_in_a_stage_that_is_carried_out(image: str) -> None:
    """The last stage of a job only makes a user; the server's installs the wheel too."""
    last = [each.text for each in final(image, "RUN") if not each.text.startswith(tuple(NOT_RUN))]
    assert len(last) == (image == "serve")
    assert max(each.stage for each in instructions(image)) == 2


def test_a_job_starts_with_what_was_installed(job: Build) -> None:
    (entry,), (command,) = final(job.image, "ENTRYPOINT"), final(job.image, "CMD")
    assert "Usage: slimgpt" in _in_environment(job, [*entry.words(), *command.words()])


def test_the_health_check_of_a_job_answers(job: Build) -> None:
    (check,) = final(job.image, "HEALTHCHECK")
    command = json.loads(check.text.removeprefix("CMD "))
    assert __version__ in _in_environment(job, command)


def test_what_runs_is_the_wheel_and_not_the_checkout(job: Build) -> None:
    script = "import slimgpt; print(slimgpt.__file__)"
    assert _in_environment(job, ["python3", "-c", script]).startswith(str(job.root / "opt/slimgpt"))


def test_the_server_gets_the_wheel_and_nothing_that_it_has_is_changed(server: Build) -> None:
    before = _versions(server)
    server.carry_out(*[each for each in _runs("serve", 2) if each.name == "RUN"])
    after = _versions(server)
    assert after == before | {"slimgpt": __version__}
    assert "Usage: slimgpt" in _in_environment(server, ["slimgpt", "--help"])


def test_only_what_the_base_of_the_server_lacks_is_added_at_our_version(tmp_path: Path) -> None:
    build = Build("serve", tmp_path, hidden=frozenset({"jaxtyping"}))
    build.carry_out(*_runs("serve", 1))
    held, added = (
        (build.root / "src/constraints" / name).read_text() for name in ("held.txt", "added.txt")
    )
    assert "\njaxtyping==" in added
    assert "jaxtyping==" not in held
    for present in ("torch", "transformers", "huggingface_hub", "lm_eval"):
        assert f"\n{present}==" not in added


def test_a_base_that_is_too_old_for_us_fails_the_build(server: Build) -> None:
    """Rather than being served by a transformers that vLLM was not built with."""
    held = server.root / "src/constraints/held.txt"
    kept = held.read_text()
    try:
        lines = [line for line in kept.splitlines() if not line.startswith("transformers==")]
        held.write_text("\n".join([*lines, "transformers==5.0.0"]))
        (install,) = [each for each in _runs("serve", 2) if each.name == "RUN"]
        ended = server.run(install.text)
    finally:
        held.write_text(kept)
    assert ended.returncode != 0
    assert "transformers==5.0.0" in ended.stderr + ended.stdout


def _in_environment(build: Build, command: list[str]) -> str:
    ended = subprocess.run(
        command,
        cwd=build.root,
        env=build.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def _versions(build: Build) -> dict[str, str]:
    listed = _in_environment(build, ["python3", "-m", "pip", "list", "--format=json"])
    return {each["name"]: each["version"] for each in json.loads(listed)}
