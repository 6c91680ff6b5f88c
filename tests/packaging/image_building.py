"""A build without a daemon: a Dockerfile's instructions, carried out below a temporary folder.

ARG, ENV, WORKDIR, COPY and RUN do what a builder does; the absolute paths of ours are moved below
the folder. The base image is a virtual environment that holds this environment's packages, and pip
has no index: nothing is downloaded, and the lines that run are those of the Dockerfile.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

from tests.packaging.dockerfile import REPOSITORY, Instruction, context

OURS = ("/opt/slimgpt", "/src")
"""What the Dockerfiles make below the root directory, without needing root for it."""
DIGEST = "sha256:" + "0123456789abcdef" * 4


class Build:
    """One of an image.

    Attributes:
        root: stands for the root directory.
        environment: that of the RUN lines.
    """

    def __init__(self, image: str, root: Path, hidden: frozenset[str] = frozenset()) -> None:
        self.image, self.root = image, root
        self._packages = root / "packages"
        self._packages.mkdir(parents=True)
        _link_packages(self._packages, hidden)
        base = root / "base"
        venv.create(base, with_pip=False, symlinks=True)  # pip is among the packages
        self._share_packages(base)
        self._directory = root
        self.environment = {
            "PATH": f"{base / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(root),
            "BASE": f"base:1@{DIGEST}",
            "OMP_NUM_THREADS": "1",
            "PIP_NO_INDEX": "1",
        }

    def carry_out(self, *instructions: Instruction) -> None:
        """In order.

        Raises:
            AssertionError: a RUN line failed.
        """
        for instruction in instructions:
            match instruction.name:
                case "ENV":
                    for name, value in instruction.assignments().items():
                        self.environment[name] = self._expand(self._moved(value))
                case "WORKDIR":
                    self._directory = Path(self._moved(instruction.text))
                    self._directory.mkdir(parents=True)
                case "COPY":
                    self._copy(*instruction.words())
                case "RUN":
                    done = self.run(instruction.text)
                    assert done.returncode == 0, f"{instruction.text}\n{done.stdout}\n{done.stderr}"

    def run(self, text: str) -> subprocess.CompletedProcess[str]:
        """A shell line; environments that it makes get this environment's packages."""
        done = subprocess.run(
            ["sh", "-c", self._moved(text)],
            cwd=self._directory,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=170,
        )
        for made in self.root.glob("opt/*/pyvenv.cfg"):
            self._share_packages(made.parent)
        return done

    def _copy(self, *words: str) -> None:
        *sources, target = words
        admitted = context(self.image)
        for source in sources:
            for path in admitted:
                if path == source or path.startswith(source + "/"):
                    name = Path(path).name if path == source else Path(path).relative_to(source)
                    file = self._directory / target / name
                    file.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(REPOSITORY / path, file)

    def _moved(self, text: str) -> str:
        ours = "|".join(map(re.escape, OURS))
        return re.sub(rf"(?<![\w./-])({ours})(?![\w-])", rf"{self.root}\1", text)

    def _expand(self, value: str) -> str:
        return re.sub(r"\$\{(\w+)\}", lambda name: self.environment[name[1]], value)

    def _share_packages(self, environment: Path) -> None:
        site = Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)}))
        # First in the path: a new environment may bring an older setuptools of its own.
        line = f"import sys; sys.path.insert(0, {str(self._packages)!r})\n"
        (site / "packages.pth").write_text(line)


def _link_packages(folder: Path, hidden: frozenset[str]) -> None:
    """To each that is installed here, but not to SlimGPT or to how an editable one is found."""
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        name = entry.name.lower()
        left_out = name.endswith(".pth") or name.startswith(
            ("slimgpt", "__editable__", "__pycache")
        )
        if not left_out and name.split("-")[0] not in hidden:
            (folder / entry.name).symlink_to(entry)
