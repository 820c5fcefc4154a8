"""Fetch llama.cpp's collection of chat templates, which the tests render.

    python -m scripts.fetch_templates

They come from llama-cpp-python's source distribution (vendor/llama.cpp/models/templates) and are stored once
per user and version; the repository has no copy. Standard library only.
"""

from __future__ import annotations

import os
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from scripts.build_args import SetupError
from scripts.build_llama_server import fetch_archive
from scripts.setup import ROOT, llama_requirement

_INSIDE = "vendor/llama.cpp/models/templates"


def main() -> int:
    """Fetch missing templates and print their folder. Returns the exit code."""
    try:
        print(fetched_templates())
    except SetupError as error:
        print(f"templates: {error}", file=sys.stderr)
        return 1
    return 0


def fetched_templates() -> Path:
    """Fetch the *.jinja files if they are missing; returns their folder. Raises SetupError."""
    folder = templates_folder()
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        unpacked = Path(scratch, "templates")
        unpack_templates(fetch_archive(Path(scratch), folder.parent / "fetch.log"), unpacked)
        try:
            unpacked.rename(folder)
        except OSError:
            if not folder.exists():  # otherwise another run made it first
                raise
    return folder


def templates_folder() -> Path:
    """The folder for the templates of the pinned version."""
    requirement = llama_requirement((ROOT / "pyproject.toml").read_text())
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "vram-llm", "templates", requirement.replace("==", "-"))


def unpack_templates(archive: Path, folder: Path) -> None:
    """Write the templates of a source distribution into a new `folder`. Raises SetupError if it has none."""
    folder.mkdir()
    with tarfile.open(archive) as packed:
        for member in packed:
            path = PurePosixPath(member.name)
            if path.suffix == ".jinja" and str(path.parent).endswith(_INSIDE) and member.isfile():
                source = packed.extractfile(member)
                assert source is not None
                (folder / path.name).write_bytes(source.read())
    if not any(folder.iterdir()):
        raise SetupError(f"{archive.name} holds no chat templates under {_INSIDE}")


if __name__ == "__main__":
    sys.exit(main())
