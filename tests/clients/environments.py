"""Environments of client programs: what is installed is the lock file's, to the version."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
INSTALL_LIMIT_S = 1200.0


class ClientsError(Exception):
    """Something that a client needs is missing. The message is for the table."""


@dataclass(frozen=True, slots=True)
class Python:
    """A virtual environment, made from python/NAME.txt, which uv wrote from python/NAME.in."""

    name: str

    @property
    def lock(self) -> Path:
        return HERE / "python" / f"{self.name}.txt"

    @property
    def folder(self) -> Path:
        return ROOT / ".venv-clients" / self.name

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.folder / "bin",)

    def install(self) -> None:
        """Raises ClientsError."""
        if _is_installed(self.folder, self.lock):
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(self.folder)])
        python = str(self.folder / "bin" / "python")
        _run([python, "-m", "pip", "install", "--quiet", "--no-deps", "-r", str(self.lock)])
        _stamp(self.folder, self.lock)

    def version(self, package: str) -> str:
        found = metadata.distributions(
            name=package, path=[str(path) for path in self.folder.glob("lib/python*/site-packages")]
        )
        return next(iter(found)).version

    def renew(self) -> None:
        """Write the lock file again, with the newest versions. Needs uv."""
        source = self.lock.with_suffix(".in").relative_to(ROOT)
        override = self.lock.with_suffix(".override")
        more = ["--override", str(override.relative_to(ROOT))] if override.exists() else []
        _run([
            "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--upgrade",
            "--no-header", "--no-annotate", "--output-file", str(self.lock.relative_to(ROOT)), *more,
            str(source),
        ])  # fmt: skip


NODE = Python("node")  # Node.js itself, from PyPI: the machine's own may be too old


@dataclass(frozen=True, slots=True)
class Node:
    """A node_modules folder, made from node/NAME/package-lock.json."""

    name: str

    @property
    def lock(self) -> Path:
        return HERE / "node" / self.name / "package-lock.json"

    @property
    def folder(self) -> Path:
        return ROOT / ".node-clients" / self.name

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.folder / "node_modules" / ".bin", *NODE.paths)

    def install(self) -> None:
        """Raises ClientsError."""
        NODE.install()
        if _is_installed(self.folder, self.lock):
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(self.lock.parent / name, self.folder)
        _run(["npm", "ci", "--no-audit", "--no-fund", "--loglevel", "error"], self.folder, NODE.paths)
        _stamp(self.folder, self.lock)

    def version(self, package: str) -> str:
        described = self.folder / "node_modules" / package / "package.json"
        return str(json.loads(described.read_text())["version"])

    def renew(self) -> None:
        """Write the lock file again, with the newest versions, and those into package.json."""
        NODE.install()
        names = json.loads((self.lock.parent / "package.json").read_text())["dependencies"]
        newest = [f"{name}@latest" for name in names]
        _run(
            [
                "npm", "install", "--package-lock-only", "--save-exact", "--omit-lockfile-registry-resolved",
                *newest,
            ],
            self.lock.parent, NODE.paths,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Java:
    """The machine's JDK, 11 or newer. Nothing is installed."""

    name: str = "java"

    @property
    def folder(self) -> Path:
        return ROOT

    @property
    def paths(self) -> tuple[Path, ...]:
        return ()

    def install(self) -> None:
        """Raises ClientsError where there is none."""
        if shutil.which("java") is None:
            raise ClientsError("there is no JDK on this machine; install default-jdk-headless")

    def version(self, package: str) -> str:
        lines = subprocess.run(["java", "--version"], capture_output=True, text=True, check=True).stdout
        return lines.split()[1]

    def renew(self) -> None: ...


Environment = Python | Node | Java


def _is_installed(folder: Path, lock: Path) -> bool:
    stamp = folder / ".lock-digest"
    return stamp.exists() and stamp.read_text() == _digest(lock)


def _stamp(folder: Path, lock: Path) -> None:
    (folder / ".lock-digest").write_text(_digest(lock))


def _digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes()).hexdigest()


def _run(command: list[str], folder: Path = ROOT, paths: tuple[Path, ...] = ()) -> None:
    path = os.pathsep.join([*map(str, paths), os.environ.get("PATH", "")])
    try:
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True,
            timeout=INSTALL_LIMIT_S,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise ClientsError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise ClientsError(f"{' '.join(command[:3])} took longer than {INSTALL_LIMIT_S:.0f} s") from error
    if done.returncode != 0:
        raise ClientsError(f"{' '.join(command[:3])} failed: {done.stderr.strip()[-500:]}")
