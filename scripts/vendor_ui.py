"""Fetch the JavaScript libraries of the dashboard, and the one that its tests use, from npm.

    python -m scripts.vendor_ui          # fetch them anew; needs npm and the network
    python -m scripts.vendor_ui --check  # compare the repository's copies with their checksums

The repository has copies, so that neither users nor tests need npm. For another version change its row in
PACKAGES; the script prints the checksums that it finds. Standard library only.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path("vram_llm/server/ui/static/vendor")
TESTS = Path("tests/server/ui/vendor")


@dataclass(frozen=True)
class Package:
    """A package of npm, and the files to take from it: name there, name here, SHA-256."""

    name: str
    version: str
    sha256: str  # of its archive
    folder: Path
    files: tuple[tuple[str, str, str], ...]


PACKAGES = (
    Package(
        "htm",
        "3.1.1",
        "2425b9bee11409177bcabc7f32e319926fc6690c1701c0b257c88bdff2d5ba90",
        PAGE,
        (
            (
                "preact/standalone.mjs",
                "htm-preact.js",  # htm and Preact in one module
                "72284e8e9079c87817145df1110f74e8a2aa040b2fc384922e18dfcb46fc1fd7",
            ),
            (
                "LICENSE",
                "LICENSE-htm.txt",
                "740725f7252e750af735d0028cc534970772f513331e9f68150fede8fb3ce00f",
            ),
        ),
    ),
    Package(
        "preact",
        "11.2.0",
        "3c4456766bd32b6b534d52bf4e9c2a29b33e7eedf6e96ed479300ba1a7888ebf",
        PAGE,
        (
            (
                "LICENSE",
                "LICENSE-preact.txt",
                "1fe6958409c8c257a70c587a18b6f7f412b179b456630790d30b2ec9a8e4b7d4",
            ),
        ),
    ),
    Package(
        "uplot",
        "1.6.32",
        "4b8a8191e425658e3ea8c8c1314b0fc679c861ee3a1af2b20c7b16ba50b5133d",
        PAGE,
        (
            (
                "dist/uPlot.iife.min.js",
                "uplot.js",
                "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
            ),
            (
                "dist/uPlot.min.css",
                "uplot.css",
                "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
            ),
            (
                "LICENSE",
                "LICENSE-uplot.txt",
                "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
            ),
        ),
    ),
    Package(
        "axe-core",
        "4.14.1",
        "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745",
        TESTS,
        (
            ("axe.min.js", "axe.min.js", "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"),
            (
                "LICENSE",
                "LICENSE-axe-core.txt",
                "af175b9d96ee93c21a036152e1b905b0b95304d4ae8c2c921c7609100ba8df7e",
            ),
        ),
    ),
)


class WrongChecksum(Exception):
    """A file is missing or is not the one whose checksum is here."""


def main() -> int:
    """Fetch or check. Returns the exit code."""
    try:
        if "--check" in sys.argv[1:]:
            check_copies()
        else:
            fetch()
    except (OSError, subprocess.CalledProcessError, WrongChecksum) as error:
        print(f"vendored libraries: {error}", file=sys.stderr)
        return 1
    return 0


def check_copies(root: Path = ROOT) -> None:
    """Compare the copies below `root` with their checksums. Raises WrongChecksum, OSError."""
    for package in PACKAGES:
        for _, name, sha256 in package.files:
            path = package.folder / name
            _check(str(path), (root / path).read_bytes(), sha256)


def fetch(root: Path = ROOT) -> None:
    """Fetch all packages and write their files below `root`. Raises WrongChecksum, OSError."""
    for package in PACKAGES:
        folder = root / package.folder
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in _files(package).items():
            (folder / name).write_bytes(data)
            print(package.folder / name)


def _files(package: Package) -> dict[str, bytes]:
    """The files of a package by their names here, checked."""
    with tempfile.TemporaryDirectory() as scratch:
        wanted = f"{package.name}@{package.version}"
        subprocess.run(
            ["npm", "pack", "--silent", wanted], cwd=scratch, check=True, stdout=subprocess.DEVNULL
        )
        (archive,) = Path(scratch).iterdir()
        _check(wanted, archive.read_bytes(), package.sha256)
        found = {}
        with tarfile.open(archive) as packed:
            for inside, name, sha256 in package.files:
                member = packed.extractfile(f"package/{inside}")
                assert member is not None
                found[name] = member.read()
                _check(f"{wanted}/{inside}", found[name], sha256)
    return found


def _check(what: str, data: bytes, sha256: str) -> None:
    """Raises WrongChecksum."""
    if (own := hashlib.sha256(data).hexdigest()) != sha256:
        raise WrongChecksum(f"{what} has the SHA-256 {own}, not {sha256}")


if __name__ == "__main__":
    sys.exit(main())
