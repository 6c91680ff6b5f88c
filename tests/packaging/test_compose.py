"""compose.yaml: valid, pinned, hardened, and closed to the network."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.packaging.dockerfile import FOLDER, final

pytestmark = pytest.mark.packaging

COMPOSE = FOLDER / "compose.yaml"
SERVICES = ("serve", "prometheus", "grafana")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return document


def test_it_meets_the_schema_of_compose() -> None:
    pytest.importorskip("check_jsonschema", reason="needs check-jsonschema, which has the schema")
    checked = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema"),
            *("--builtin-schema", "vendor.compose-spec", str(COMPOSE)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_compose_itself_reads_it(tmp_path: Path) -> None:
    """With every variable that the example names, and not without."""
    docker = shutil.which("docker")
    if (
        docker is None
        or subprocess.run([docker, "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("needs docker with its compose plugin; a daemon is not needed")
    filled = tmp_path / "env"
    filled.write_text("".join(f"{name}={name.lower()}\n" for name in _named_in_the_example()))
    command = [docker, "compose", "--file", str(COMPOSE), "--env-file", str(filled), "config"]
    read = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert read.returncode == 0, read.stderr


def test_every_variable_without_a_default_is_in_the_example() -> None:
    required = set(re.findall(r"\$\{(\w+):\?", COMPOSE.read_text()))
    assert required <= set(_named_in_the_example())


def test_the_example_holds_no_image_and_no_secret() -> None:
    """A digest that is written down here would go stale unseen."""
    given = {name for name, value in _named_in_the_example().items() if value}
    assert given == {"GPUS"}


def test_each_image_is_built_here_or_named_by_the_user(compose: dict[str, Any]) -> None:
    for name in SERVICES:
        service = compose["services"][name]
        named = service["build"]["args"]["BASE"] if "build" in service else service["image"]
        assert re.match(r"\$\{\w+:\?.*digest", named), name


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_loopback(compose: dict[str, Any], name: str) -> None:
    for port in compose["services"][name]["ports"]:
        assert port.startswith("127.0.0.1:")


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_hardened(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"])


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_each_service_says_how_it_is(compose: dict[str, Any], name: str) -> None:
    """The server's check is in its image."""
    assert compose["services"][name]["healthcheck"]["test"][0] == "CMD"


def test_secrets_are_files_that_git_ignores(compose: dict[str, Any]) -> None:
    ignored = (FOLDER / ".gitignore").read_text().split()
    for name, secret in compose["secrets"].items():
        assert secret == {"file": f"./secrets/{name}"}
    assert {".env", "secrets/"} <= set(ignored)


def test_no_secret_is_in_an_environment(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"KEY|PASSWORD|TOKEN", name):
                assert name.endswith("_FILE")
                assert value.removeprefix("/run/secrets/") in service["secrets"]


def test_nobody_sees_a_dashboard_without_a_password(compose: dict[str, Any]) -> None:
    settings = compose["services"]["grafana"]["environment"]
    assert settings["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    assert settings["GF_USERS_ALLOW_SIGN_UP"] == "false"


def test_each_mounted_file_exists(compose: dict[str, Any]) -> None:
    sources = {
        volume.split(":")[0]
        for service in compose["services"].values()
        for volume in service["volumes"]
        if isinstance(volume, str)
    }
    own = {source for source in sources if source.startswith("./")}
    assert own
    assert all((FOLDER / source).is_dir() for source in own)
    assert sources - own == set(compose["volumes"])


def test_the_cache_is_where_the_image_writes(compose: dict[str, Any]) -> None:
    (volume,) = [word for each in final("serve", "VOLUME") for word in each.words()]
    assert f"cache:{volume}" in compose["services"]["serve"]["volumes"]


def _named_in_the_example() -> dict[str, str]:
    lines = (FOLDER / "compose.env.example").read_text().splitlines()
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {name: value for name, _, value in pairs}
