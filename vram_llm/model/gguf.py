"""Parse one GGUF file's bytes into its metadata and tensor list.

The format is that of ggml/src/gguf.cpp (`gguf_init_from_reader`), versions 2 and 3, little-endian, and the
checks are its checks. Every length is compared with the file's size before anything of that length is
allocated. The memory for what is kept is bounded: arrays that are only counted are not kept.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from vram_llm.errors import CorruptHeader, ModelFileError, TruncatedFile
from vram_llm.model.foreign_formats import looks_like
from vram_llm.model.known_arrays import ArrayStart, Buffer, KnownArrays
from vram_llm.model.quants import RETIRED, TYPES, GgmlType

MAX_KEYS = 2**16
MAX_TENSORS = 2**16  # of all shards: 128 for each of the 512 layers that llama.cpp takes
MAX_KEY_BYTES = 2**16 - 1
MAX_TEXT_BYTES = 2**22  # of one metadata string; the longest in use, chat templates, are some 10 kB
MAX_NAME_BYTES = 63  # GGML_MAX_NAME less its terminator
MAX_STRINGS = 2**22  # in all arrays: some 5 times the largest vocabulary with its merges
MAX_ELEMENTS = 2**30  # GGUF_MAX_ARRAY_ELEMENTS, and GGUF_MAX_STRING_LENGTH
MAX_KEPT_BYTES = 2**23  # of all values that are kept
KEPT_ELEMENTS = (
    4096  # longer arrays are counted, not read; per-layer ones have at most 512 (LLAMA_MAX_LAYERS)
)
MAX_KEPT_ELEMENTS = 2**18  # of all arrays that are read
_COPIED_BYTES = 2**20  # a longer array that is only counted is not copied into a stripped header

_STRING, _ARRAY = 8, 9
_NUMBERS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class SkippedArray:
    """A metadata array that was counted, not read: an array of strings, or a long array of numbers."""

    count: int
    of_strings: bool


Number = bool | int | float
Value = Number | str | tuple[Number, ...] | SkippedArray


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor as the header lists it. `shape` is in ggml's order, ne[0] (the row) first, in elements."""

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    offset: int  # bytes from the start of its file's data
    n_bytes: int  # unpadded

    @property
    def n_elements(self) -> int:
        """Elements of the whole tensor."""
        return self.n_bytes // self.type.block_bytes * self.type.block


@dataclass(frozen=True, slots=True)
class GgufFile:
    """The header of one file."""

    version: int
    metadata: Mapping[str, Value]
    raw: Mapping[str, bytes]  # the bytes of each value, its type first; without large arrays and vocabularies
    tensors: tuple[TensorInfo, ...]
    data_offset: int  # bytes from the start of the file


_TYPE_NAMES = ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "str", "array", "u64", "i64", "f64")


def type_name(raw: bytes) -> str:
    """The type of a value in GgufFile.raw, as a short form of its name in the GGUF specification."""
    return _TYPE_NAMES[int.from_bytes(raw[:4], "little")]


class TruncatedArray(TruncatedFile):
    """The data end inside a long metadata array."""

    def __init__(self, cut: TruncatedFile, array: ArrayStart) -> None:
        super().__init__(str(cut), cut.needed_bytes)
        self.array = array


def parse(data: Buffer, file_size: int, name: str, known: KnownArrays | None = None) -> GgufFile:
    """Read the header at the start of `data`, the first bytes of a file of `file_size` bytes called `name`.

    Arrays that are `known` are not counted string by string; others are added, if `known` is given. Raises
    ModelFileError (not a GGUF), TruncatedFile (`data` ends inside the header, whose least size is
    `needed_bytes`; or the file ends before the last tensor does), TruncatedArray (a TruncatedFile inside an
    array) or CorruptHeader.
    """
    reader = _Reader(data, file_size, name, known)
    version = _read_version(reader)
    n_tensors = reader.count("tensors", MAX_TENSORS, at_least_bytes=24)
    n_keys = reader.count("metadata keys", MAX_KEYS, at_least_bytes=13)
    metadata: dict[str, Value] = {}
    raw: dict[str, bytes] = {}
    for _ in range(n_keys):
        key = reader.name_text("metadata key", MAX_KEY_BYTES)
        if not key or key in metadata:
            raise CorruptHeader(
                f"{name} has {f'the metadata key {key!r} twice' if key else 'an empty metadata key'}"
            )
        start = reader.position
        metadata[key] = value = reader.value(key)
        if not isinstance(value, SkippedArray) or _is_copied(key, reader.position - start):
            reader.keep(reader.position - start)
            raw[key] = bytes(data[start : reader.position])
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        raise CorruptHeader(f"{name} says general.alignment is {alignment!r}, which is not a power of two")
    tensors = _read_tensors(reader, n_tensors, alignment)
    data_offset = _pad(reader.position, alignment)
    if tensors:
        missing = data_offset + tensors[-1].offset + tensors[-1].n_bytes - file_size
        if missing > 0:
            raise TruncatedFile(
                f"{name} is cut short: {missing:,} bytes of its tensor data are missing (the file has"
                f" {file_size:,}); download it again"
            )
    return GgufFile(version, metadata, raw, tensors, data_offset)


def _is_copied(key: str, n_bytes: int) -> bool:
    """Whether an array that is only counted goes into a stripped header: llama.cpp counts labels there."""
    return n_bytes <= _COPIED_BYTES and not key.startswith("tokenizer.")


def _pad(n: int, to: int) -> int:
    return -(-n // to) * to


def _read_version(reader: "_Reader") -> int:
    magic = bytes(reader.data[:4])
    if magic != b"GGUF":
        if len(magic) < 4 and b"GGUF".startswith(magic):
            raise TruncatedFile(
                f"{reader.name} is cut short: it has only {len(magic)} bytes; download it again",
                needed_bytes=4,
            )
        raise ModelFileError(f"{reader.name} is not a GGUF file: {looks_like(bytes(reader.data[:512]))}")
    reader.position = 4
    version: int = reader.number(_U32)
    if version in (2, 3):
        return version
    if version in (2 << 24, 3 << 24):
        raise ModelFileError(
            f"{reader.name} is a big-endian GGUF, which llama.cpp does not read on this machine;"
            " get the little-endian file, or convert it with llama.cpp's gguf_convert_endian.py"
        )
    if version == 1:
        raise ModelFileError(
            f"{reader.name} is a GGUF of version 1, which llama.cpp no longer reads; convert it again"
        )
    raise ModelFileError(f"{reader.name} says it is a GGUF of version {version}; versions 2 and 3 are known")


def _read_tensors(reader: "_Reader", n_tensors: int, alignment: int) -> tuple[TensorInfo, ...]:
    tensors: list[TensorInfo] = []
    seen: set[str] = set()
    expected = 0
    for _ in range(n_tensors):
        tensor = _read_tensor(reader)
        if tensor.name in seen:
            raise CorruptHeader(f"{reader.name} lists the tensor {tensor.name!r} twice")
        if tensor.offset != expected:
            raise CorruptHeader(
                f"{reader.name} puts the tensor {tensor.name!r} at byte {tensor.offset:,} of its data where"
                f" {expected:,} is next"
            )
        expected += _pad(tensor.n_bytes, alignment)
        seen.add(tensor.name)
        tensors.append(tensor)
    return tuple(tensors)


def _read_tensor(reader: "_Reader") -> TensorInfo:
    name = reader.name_text("tensor name", MAX_NAME_BYTES)
    what = f"{reader.name} says the tensor {name!r}"
    n_dims: int = reader.number(_U32)
    if not name or n_dims > 4:
        raise CorruptHeader(
            f"{what} has {n_dims} dimensions" if name else f"{reader.name} has a tensor with no name"
        )
    shape: tuple[int, ...] = reader.numbers(struct.Struct(f"<{n_dims}Q")) or (1,)
    type_id: int = reader.number(_U32)
    offset: int = reader.number(_U64)
    ggml_type = TYPES.get(type_id)
    if ggml_type is None:
        known = (
            f"{RETIRED[type_id]}, which ggml no longer reads"
            if type_id in RETIRED
            else f"unknown ({type_id})"
        )
        raise CorruptHeader(f"{what} is of a ggml type that is {known}")
    if shape[0] % ggml_type.block:
        raise CorruptHeader(
            f"{what} has rows of {shape[0]}, not a multiple of {ggml_type.name}'s {ggml_type.block}"
        )
    n_bytes = shape[0] // ggml_type.block * ggml_type.block_bytes
    for length in shape[1:]:
        n_bytes *= length
    if max(shape) >= 2**63 or n_bytes >= 2**63:
        raise CorruptHeader(f"{what} has the shape {shape}, more than any machine can hold")
    return TensorInfo(name, shape, ggml_type, offset, n_bytes)


class _Reader:
    """A buffer and a position in it, which never passes the end."""

    def __init__(self, data: Buffer, file_size: int, name: str, known: KnownArrays | None) -> None:
        self.data = data
        self.file_size = file_size
        self.name = name
        self.known = known
        self.end = len(data)
        self.position = 0
        self.n_strings = 0  # in all arrays
        self.kept_elements = 0
        self.kept_bytes = 0

    def cut(self, missing: int) -> TruncatedFile:
        needed, has = self.end + missing, self.file_size
        return TruncatedFile(
            f"{self.name} is cut short: its header goes on for at least {needed - has:,} bytes after byte"
            f" {has:,}; download it again",
            needed_bytes=needed,
        )

    def keep(self, n_bytes: int) -> None:
        """Count bytes of a value that is kept. Raises CorruptHeader past the limit."""
        self.kept_bytes += n_bytes
        if self.kept_bytes > MAX_KEPT_BYTES:
            raise CorruptHeader(
                f"{self.name} has more than {MAX_KEPT_BYTES:,} bytes of metadata without its vocabulary; no"
                " model has"
            )

    def need(self, n_bytes: int) -> None:
        if n_bytes > self.end - self.position:
            raise self.cut(n_bytes - (self.end - self.position))

    def numbers(self, layout: struct.Struct) -> tuple[int, ...]:
        self.need(layout.size)
        values = layout.unpack_from(self.data, self.position)
        self.position += layout.size
        return values

    def number(self, layout: struct.Struct) -> int:
        return self.numbers(layout)[0]

    def count(self, what: str, limit: int, at_least_bytes: int) -> int:
        count = self.number(_U64)
        if count > limit:
            raise CorruptHeader(f"{self.name} claims {count:,} {what}; no model has more than {limit:,}")
        self.need(count * at_least_bytes)
        return count

    def text(self, what: str, limit: int) -> str:
        length = self.number(_U64)
        if length > limit:
            raise CorruptHeader(
                f"{self.name} has a {what} of {length:,} bytes; no model has one above {limit:,}"
            )
        self.need(length)
        raw = self.data[self.position : self.position + length]
        self.position += length
        return bytes(raw).decode("utf-8", "replace")

    def name_text(self, what: str, limit: int) -> str:
        """A text that names something. Raises CorruptHeader if it has control characters."""
        text = self.text(what, limit)
        if not text.isprintable():
            raise CorruptHeader(f"{self.name} has a {what} with control characters: {text[:80]!r}")
        return text

    def value(self, key: str) -> Value:
        kind = self.number(_U32)
        if kind == _STRING:
            return self.text(f"value of {key}", MAX_TEXT_BYTES)
        if kind == _ARRAY:
            return self.array(key)
        if kind not in _NUMBERS:
            raise CorruptHeader(f"{self.name} gives {key} the type {kind}, which GGUF does not have")
        return self.number(struct.Struct("<" + _NUMBERS[kind]))

    def array(self, key: str) -> Value:
        kind = self.number(_U32)
        if kind != _STRING and kind not in _NUMBERS:
            raise CorruptHeader(f"{self.name} has an array {key} of type {kind}, which GGUF does not have")
        what, limit = ("strings", MAX_STRINGS) if kind == _STRING else ("elements", MAX_ELEMENTS)
        size = 8 if kind == _STRING else struct.calcsize("<" + _NUMBERS[kind])
        count = self.count(f"{what} in {key}", limit, at_least_bytes=0)
        start = ArrayStart(key, kind, count, self.position)
        try:
            self.need(count * size)
            if kind == _STRING:
                self.count_strings(key, count)
            elif count <= min(KEPT_ELEMENTS, MAX_KEPT_ELEMENTS - self.kept_elements):
                self.kept_elements += count
                return self.numbers(struct.Struct(f"<{count}{_NUMBERS[kind]}"))
            if self.known and (end := self.known.end_of(start, self.data)) is not None:
                self.position = end
            elif kind == _STRING:
                self.skip_strings(key, count)
            else:
                self.position += count * size
        except TruncatedFile as cut:
            raise TruncatedArray(cut, start) from None
        if self.known is not None:
            self.known.add(start, self.data, self.position)
        return SkippedArray(count, of_strings=kind == _STRING)

    def count_strings(self, key: str, count: int) -> None:
        self.n_strings += count
        if self.n_strings > MAX_STRINGS:
            raise CorruptHeader(
                f"{self.name} claims {self.n_strings:,} strings up to {key}; no model has more than"
                f" {MAX_STRINGS:,}"
            )

    def skip_strings(self, key: str, count: int) -> None:
        """Skip `count` strings. A vocabulary has 10^5 of them: this loop is the reader's whole cost."""
        length_at, data, position = _U64.unpack_from, self.data, self.position
        try:
            for _ in range(count):
                position += 8 + length_at(data, position)[0]
        except (struct.error, OverflowError):
            position = max(position + 8, self.end + 1)
        missing = position - self.end
        if missing > MAX_ELEMENTS:
            raise CorruptHeader(f"{self.name} has a string in {key} that is longer than any string can be")
        if missing > 0:
            raise self.cut(missing)
        self.position = position
