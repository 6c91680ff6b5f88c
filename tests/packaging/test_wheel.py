"""The wheel: what is in it, which way its imports run, and that it works without torch."""

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.packaging

REPOSITORY = Path(__file__).resolve().parents[2]
ROOTS = {
    "slimgpt": REPOSITORY / "slimgpt",
    "slimgpt_export": REPOSITORY / "export/slimgpt_export",
    "slimgpt_serve": REPOSITORY / "serve/slimgpt_serve",
    "slimgpt_bench": REPOSITORY / "bench/slimgpt_bench",
}
MAY_IMPORT = {
    "slimgpt": {"slimgpt"},
    "slimgpt_export": {"slimgpt_export", "slimgpt_serve", "slimgpt"},  # checked with what runs it
    "slimgpt_serve": {"slimgpt_serve", "slimgpt"},
    "slimgpt_bench": set(ROOTS),
}
LIGHT = ("click", "rich", "pydantic", "numpy")  # all that --help and plan may need
HEAVY = ("torch", "transformers")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools would pack what an older build left in ./build."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("slimgpt", "export", "serve", "bench"):
        shutil.copytree(
            REPOSITORY / name,
            source / name,
            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
        )
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", str(source))
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def members(wheel: Path) -> set[PurePosixPath]:
    with ZipFile(wheel) as archive:
        return {PurePosixPath(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def site_packages(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of a new environment that holds the wheel and the light dependencies alone.

    The dependencies are copied from this environment: nothing is downloaded, and the versions are
    those that everything else is tested with. Decoys stand where torch and transformers would be,
    so that an import is caught even where the importer forgives an ImportError.
    """
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(home)}))
    for name in sorted(_closure(LIGHT)):
        _copy_distribution(metadata.distribution(name), site)
    for name in HEAVY:
        (site / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')\n")
    _run(
        *(sys.executable, "-m", "pip", "--python", str(home / "bin/python")),
        *("install", "--quiet", "--no-deps", "--no-index", str(wheel)),
    )
    return site


def test_the_import_roots_are_the_only_top_levels(members: set[PurePosixPath]) -> None:
    tops = {path.parts[0] for path in members}
    (info,) = (top for top in tops if top.endswith(".dist-info"))
    assert tops == {*ROOTS, info}


@pytest.mark.parametrize("root", ROOTS)
def test_each_root_says_that_it_is_typed(root: str, members: set[PurePosixPath]) -> None:
    assert PurePosixPath(root, "py.typed") in members


def test_every_source_and_demo_file_is_packed(members: set[PurePosixPath]) -> None:
    sources = {
        PurePosixPath(root, path.relative_to(folder).as_posix())
        for root, folder in ROOTS.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {path for path in members if path.parts[0] in ROOTS}
    assert packed == sources


def test_the_demo_model_is_packed_with_its_weights(members: set[PurePosixPath]) -> None:
    model = PurePosixPath("slimgpt/demo/model")
    assert {model / "config.json", model / "model.safetensors", model / "tokenizer.json"} <= members


def test_licence_and_notice_are_packed(members: set[PurePosixPath]) -> None:
    assert {"LICENSE", "NOTICE"} <= {path.name for path in members}


def test_imports_run_one_way(wheel: Path) -> None:
    wrong = [
        f"{name} imports {imported}"
        for name, imported in _own_imports(wheel)
        if imported not in MAY_IMPORT[name.split("/")[0]]
    ]
    assert not wrong


def test_help_runs_without_torch(site_packages: Path, tmp_path: Path) -> None:
    assert "Usage: slimgpt" in _slimgpt(site_packages, "--help", cwd=tmp_path)
    _assert_stays_light(site_packages, "--help", cwd=tmp_path)


def test_plan_runs_without_torch(site_packages: Path, tmp_path: Path) -> None:
    plan = ("plan", str(site_packages / "slimgpt/demo/model"), "--ratio", "0.25")
    assert json.loads(_slimgpt(site_packages, *plan, "--json", cwd=tmp_path))
    _assert_stays_light(site_packages, *plan, cwd=tmp_path)


PROBE = f"""
import sys
from slimgpt.cli import main
try:
    main()
except SystemExit as finished:
    assert not finished.code, finished.code
loaded = {set(HEAVY)} & set(sys.modules)
assert not loaded, loaded
"""


def _assert_stays_light(site_packages: Path, *arguments: str, cwd: Path) -> None:
    _run(str(_bin(site_packages) / "python"), "-c", PROBE, *arguments, cwd=cwd)


def _slimgpt(site_packages: Path, *arguments: str, cwd: Path) -> str:
    return _run(str(_bin(site_packages) / "slimgpt"), *arguments, cwd=cwd)


def _bin(site_packages: Path) -> Path:
    return site_packages.parents[2] / "bin"


def _run(*command: str, cwd: Path | None = None) -> str:
    """Its standard output; a failure shows what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _closure(names: tuple[str, ...]) -> set[str]:
    """The distributions named and all that they require here."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            requirements = map(Requirement, metadata.requires(name) or [])
            waiting += [
                each.name
                for each in requirements
                if each.marker is None or each.marker.evaluate({"extra": ""})
            ]
    return found


def _copy_distribution(distribution: metadata.Distribution, site: Path) -> None:
    for file in distribution.files or []:
        if ".." not in file.parts and "__pycache__" not in file.parts:
            target = site / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(file.locate()), target)


def _own_imports(wheel: Path) -> Iterator[tuple[str, str]]:
    """(file, import root) for each import of one of our roots, wherever in the file it stands."""
    with ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".py"):
                for module in _imported_modules(ast.parse(archive.read(name))):
                    if module.split(".")[0] in ROOTS:
                        yield name, module.split(".")[0]


def _imported_modules(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
