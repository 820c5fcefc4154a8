"""Read a model's header from its file, or from all shards of a split file, without the weights."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from vram_llm.errors import CorruptHeader, MissingShard
from vram_llm.model.file_identity import FileIdentity
from vram_llm.model.gguf import MAX_TENSORS, GgufFile, TensorInfo, Value, type_name
from vram_llm.model.header_file import ReadFile, read_file_header
from vram_llm.model.known_arrays import KnownArrays
from vram_llm.model.location import RemoteFile
from vram_llm.model.metadata_override import MetadataOverride
from vram_llm.model.shards import shard_name

MAX_PARTS = 1000
_ARCHITECTURE = "general.architecture"

AnyFile = TypeVar("AnyFile", Path, RemoteFile)

# llama_model_loader in src/llama-model-loader.cpp
_SPLIT_TYPES = {"split.no": "u16", "split.count": "u16", "split.tensors.count": "i32"}


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a model."""

    path: Path | RemoteFile
    n_bytes: int  # of the file, header and padding included
    data_offset: int
    identity: FileIdentity | None = None  # None: on a server


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a model: the first shard's `metadata`, and the `tensors` of all shards in order."""

    metadata: Mapping[str, Value]
    raw: Mapping[str, bytes]  # the bytes of `metadata`, without the vocabulary: GgufFile.raw
    tensors: tuple[TensorInfo, ...]
    shards: tuple[Shard, ...]
    overrides: tuple[MetadataOverride, ...] = ()  # already applied to `metadata`, not to `raw`

    @property
    def path(self) -> Path | RemoteFile:
        """The file to give to llama.cpp, or to fetch for it: the first shard."""
        return self.shards[0].path

    @property
    def files(self) -> tuple[FileIdentity, ...]:
        """The files on this computer as they were when they were read."""
        return tuple(shard.identity for shard in self.shards if shard.identity is not None)


def read_local_header(path: Path, known: KnownArrays | None = None) -> Header:
    """Read the header of the model file at `path`, which may be any shard of a split one.

    Files of one model that are read with the same `known` arrays are read faster. Raises ModelNotFound,
    ModelFileError, TruncatedFile, CorruptHeader and MissingShard.
    """
    return join_shards(path, read_file_header(path, known), _read_parts)


def join_shards(
    path: AnyFile, first: ReadFile, read_parts: Callable[[list[AnyFile]], Generator[ReadFile, None, None]]
) -> Header:
    """The whole model's header. `first` is the header of the file at `path`: of one part or of all.

    `read_parts` reads the other parts one by one. Raises its errors, CorruptHeader and MissingShard.
    """
    count = _integer(first.contents.metadata, "split.count", 1, path)
    _check_split_types(path, first)
    if count <= 1:
        return _header([path], [first])
    if count > MAX_PARTS:
        raise CorruptHeader(f"{path.name} is one of {count:,} parts; no model has that many")
    number: int = _integer(first.contents.metadata, "split.no", 0, path)
    paths = _shard_paths(path, number, count)
    files: list[ReadFile] = []
    n_tensors = len(first.contents.tensors)
    with closing(read_parts(paths[:number] + paths[number + 1 :])) as parts:
        for i, part in enumerate(paths):
            file = first if i == number else next(parts)
            _check_part(part, file, i, count)
            n_tensors += 0 if i == number else len(file.contents.tensors)
            if n_tensors > MAX_TENSORS:
                raise CorruptHeader(f"{path.name} and its parts hold more than {MAX_TENSORS:,} tensors")
            files.append(_slim(file) if i else file)
    _check_architectures(paths, files)
    return _header(paths, files)


def _check_part(path: AnyFile, file: ReadFile, index: int, count: int) -> None:
    """Raises MissingShard for a file that does not say that it is this part of that many."""
    _check_split_types(path, file)
    metadata = file.contents.metadata
    own = (_integer(metadata, "split.no", -1, path), _integer(metadata, "split.count", -1, path))
    if own != (index, count):
        raise MissingShard(
            f"{path.name} does not say that it is part {index + 1} of {count}; download it again"
        )


def _slim(file: ReadFile) -> ReadFile:
    """A later part's header without the metadata that is not used: it may repeat the first part's."""
    kept = {key: value for key, value in file.contents.metadata.items() if key == _ARCHITECTURE}
    return replace(file, contents=replace(file.contents, metadata=kept, raw={}))


def _check_architectures(paths: Sequence[AnyFile], files: Sequence[ReadFile]) -> None:
    """Raises MissingShard if a later part names another architecture than the first one."""
    first = files[0].contents.metadata.get(_ARCHITECTURE)
    for path, file in zip(paths, files, strict=True):
        own = file.contents.metadata.get(_ARCHITECTURE, first)
        if own != first:
            raise MissingShard(
                f"{paths[0].name} is of architecture {first!r:.80}, {path.name} of {own!r:.80}: they are not"
                " parts of one model"
            )


def _check_split_types(path: AnyFile, file: ReadFile) -> None:
    """Raises CorruptHeader for an integer that llama.cpp's loader refuses or aborts on for its type."""
    for key, wanted in _SPLIT_TYPES.items():
        if (
            type(file.contents.metadata.get(key)) is int
            and (actual := type_name(file.contents.raw[key])) != wanted
        ):
            raise CorruptHeader(
                f"{path.name} has {key} as {actual}, and llama.cpp takes only {wanted}; split the "
                "model again with llama-gguf-split"
            )


def _header(paths: Sequence[AnyFile], files: Sequence[ReadFile]) -> Header:
    return Header(
        files[0].contents.metadata,
        files[0].contents.raw,
        _all_tensors(paths, [file.contents for file in files]),
        tuple(
            Shard(path, file.n_bytes, file.contents.data_offset, file.identity)
            for path, file in zip(paths, files, strict=True)
        ),
    )


def _read_parts(paths: list[Path]) -> Generator[ReadFile, None, None]:
    """The headers of the other parts. Raises MissingShard before reading any."""
    missing = [part.name for part in paths if not part.exists()]
    if missing:
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        are = f"{len(paths) + 1} parts {'is' if len(missing) == 1 else 'are'}"
        raise MissingShard(f"{len(missing)} of the model's {are} not in {paths[0].parent}: {names}")
    for path in paths:
        yield read_file_header(path)


def _shard_paths(path: AnyFile, number: int, count: int) -> list[AnyFile]:
    """All parts' paths, by llama_split_path's pattern. Raises MissingShard if the file's name differs."""
    part = f"part {number + 1} of {count}"
    name = shard_name(path.name)
    if name is None:
        raise MissingShard(
            f"{path.name} is {part}, but its name does not end in -{number + 1:05d}-of-{count:05d}.gguf, so"
            " the other parts cannot be found; give all parts their names back"
        )
    if not 0 <= number < count or (name.number, name.count) != (number + 1, count):
        raise MissingShard(f"{path.name} is {part} by its header; give it its own name back")
    return [path.with_name(part) for part in name.parts]


def _all_tensors(paths: Sequence[AnyFile], files: Sequence[GgufFile]) -> tuple[TensorInfo, ...]:
    home: dict[str, AnyFile] = {}
    for path, file in zip(paths, files, strict=True):
        for tensor in file.tensors:
            if tensor.name in home:
                where = f"both {home[tensor.name].name} and {path.name}"
                raise MissingShard(
                    f"the tensor {tensor.name!r} is in {where}: they are not parts of one model"
                )
            home[tensor.name] = path
    expected = _integer(files[0].metadata, "split.tensors.count", len(home), paths[0])
    if expected != len(home):
        raise MissingShard(
            f"{paths[0].name} and its parts hold {len(home)} tensors where {expected} are promised: they"
            " are not parts of one model"
        )
    return tuple(tensor for file in files for tensor in file.tensors)


def _integer(metadata: Mapping[str, Value], key: str, default: int, path: Path | RemoteFile) -> int:
    value = metadata.get(key, default)
    if type(value) is not int or not -1 <= value < 2**31:
        raise CorruptHeader(f"{path.name} says {key} is {value!r}, which is not a valid number")
    return value
