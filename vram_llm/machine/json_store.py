"""Small JSON files in the user's data folder, which store facts on this computer's devices between runs.

A file that cannot be used leads to a note, never to an error. A write replaces the whole file, so that a
reader finds the old file or the new one, never a part.
"""

import os
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
import platformdirs

DATA_DIR_VARIABLE = "VRAM_LLM_DATA_DIR"

_FILE_VERSION = 1

T = TypeVar("T")


class _File(msgspec.Struct, Generic[T], kw_only=True):
    version: int
    records: dict[str, T] = msgspec.field(name="cards")


def folder() -> Path:
    """The folder of the files; $VRAM_LLM_DATA_DIR names another one."""
    return Path(os.environ.get(DATA_DIR_VARIABLE) or platformdirs.user_data_dir("vram-llm"))


def llama_cpp_version() -> str:
    """The version of llama-cpp-python that is installed, or "unknown"."""
    try:
        return metadata.version("llama-cpp-python")
    except metadata.PackageNotFoundError:
        return "unknown"


def read(path: Path, of: type[T], what: str) -> tuple[dict[str, T], tuple[str, ...]]:
    """The records of `path`, and a note if the file exists and cannot be used. `what` names its records."""
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File[of])  # type: ignore[valid-type]
    except FileNotFoundError:
        return {}, ()
    except OSError as error:
        return {}, (f"the {what} in {path} cannot be read: {error.strerror or error}",)
    except (msgspec.MsgspecError, UnicodeError) as error:
        return {}, (f"the {what} in {path} are damaged and not used: {error}",)
    if file.version != _FILE_VERSION:
        return {}, (f"the {what} in {path} are of another version of this program and not used",)
    return file.records, ()


def write(path: Path, records: dict[str, T]) -> None:
    """Write all records in place of the old ones. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".new")
    try:
        with open(descriptor, "wb") as stream:
            file = _File(version=_FILE_VERSION, records=records)
            stream.write(msgspec.json.format(msgspec.json.encode(file), indent=2))
        os.replace(name, path)
    except OSError:
        os.unlink(name)
        raise
