"""Small JSON files in the user's data folder, which store facts on this computer's devices between runs.

A file that cannot be used gives a note and no error.
"""

import os
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
import platformdirs

from vram_llm.state_file import read_state, write_state
from vram_llm.units import MIB

DATA_DIR_VARIABLE = "VRAM_LLM_DATA_DIR"

_FILE_VERSION = 1
_MAX_BYTES = 16 * MIB

T = TypeVar("T")


class _File(msgspec.Struct, Generic[T], kw_only=True):
    version: int
    records: dict[str, T] = msgspec.field(name="cards")


def folder() -> Path:
    """The folder of the files: $VRAM_LLM_DATA_DIR, else the user's data folder of this program."""
    return Path(os.environ.get(DATA_DIR_VARIABLE) or platformdirs.user_data_dir("vram-llm"))


def llama_cpp_version() -> str:
    """The version of the installed llama-cpp-python, or "unknown"."""
    from importlib import metadata  # here: it takes as long to import as the rest of this floor

    try:
        return metadata.version("llama-cpp-python")
    except metadata.PackageNotFoundError:
        return "unknown"


def read(path: Path, record_type: type[T], plural: str) -> tuple[dict[str, T], tuple[str, ...]]:
    """The records of `path` by key, and a note if the file exists and cannot be used.

    `plural` is what a note calls the records: "measured speeds".
    """
    try:
        kind = _File[record_type]  # type: ignore[valid-type]  # a parameter, which mypy takes for no type
        file = msgspec.json.decode(read_state(path, _MAX_BYTES), type=kind)
    except FileNotFoundError:
        return {}, ()
    except OSError as error:
        return {}, (f"the {plural} in {path} cannot be read: {error.strerror or error}",)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        return {}, (f"the {plural} in {path} are damaged and not used: {error}",)
    if file.version != _FILE_VERSION:
        return {}, (f"the {plural} in {path} are of another version of this program and not used",)
    return file.records, ()


def write(path: Path, records: dict[str, T]) -> None:
    """Replace the file by one with these records. Raises OSError."""
    file = _File(version=_FILE_VERSION, records=records)
    write_state(path, msgspec.json.format(msgspec.json.encode(file), indent=2))
