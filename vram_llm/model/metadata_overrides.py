"""Reads overrides of a model file's metadata, and applies them to its header."""

from collections.abc import Sequence
from dataclasses import replace

from vram_llm.errors import BadPlan
from vram_llm.model.gguf import Value
from vram_llm.model.header import Header
from vram_llm.model.metadata_override import MetadataOverride

MAX_BYTES = 127  # of a key, and of a text, without the terminator
_INT64 = 2**63
_UNREAD = {
    "split.": "it describes the file itself",
    "general.alignment": "it describes the file itself",
    "tokenizer.chat_template": "llama.cpp reads the file's; give --chat-template-file",
    "general.sampling.": "llama.cpp reads the file's; give --temperature, --top-k and the others",
}
"""Beginnings of keys that llama.cpp reads past its overrides."""


def parse_override(text: str) -> MetadataOverride:
    """ "KEY=TYPE:VALUE" with the type int, float, bool or str. Raises ValueError with a sentence."""
    key, equals, typed = text.partition("=")
    kind, colon, value = typed.partition(":")
    if not key or not equals or not colon:
        raise ValueError(f"{text!r} is not written like KEY=TYPE:VALUE, as in llama.expert_used_count=int:4")
    if len(key.encode()) > MAX_BYTES or len(value.encode()) > MAX_BYTES:
        raise ValueError(f"keys and values have at most {MAX_BYTES} bytes: {text[:80]!r}")
    return MetadataOverride(key, _value(kind, value, text))


def _value(kind: str, value: str, text: str) -> bool | int | float | str:
    try:
        match kind:
            case "int" if -_INT64 <= int(value) < _INT64:
                return int(value)
            case "float":
                return float(value)
            case "bool":
                return {"true": True, "false": False}[value]
            case "str":
                return value
    except (ValueError, KeyError):
        pass
    if kind in ("int", "float", "bool"):
        raise ValueError(f"{value!r} is no {kind}: {text!r}")
    raise ValueError(f"{kind!r} is no type of metadata: int, float, bool or str")


def with_overrides(header: Header, overrides: Sequence[MetadataOverride]) -> Header:
    """`header` with other values in its metadata, of which the first of a key counts, as in llama.cpp.

    Raises BadPlan for a key that llama.cpp reads past its overrides, or whose value is of another type.
    """
    metadata = dict(header.metadata)
    for override in reversed(overrides):
        _check(override, header.metadata.get(override.key))
        metadata[override.key] = override.value
    return replace(header, metadata=metadata, overrides=tuple(overrides))


def _check(override: MetadataOverride, in_file: Value | None) -> None:
    why = next((why for start, why in _UNREAD.items() if override.key.startswith(start)), None)
    if why is not None:
        raise BadPlan(f"--override-kv does not change {override.key}: {why}")
    if in_file is None:
        return
    own = _type_of(in_file) if isinstance(in_file, bool | int | float | str) else "array"
    if own != override.type_name:
        raise BadPlan(
            f"--override-kv gives {override.key} as {override.type_name}, and the file has "
            f"{'an array, which llama.cpp does not replace' if own == 'array' else f'a value of type {own}'}"
        )


def _type_of(value: bool | int | float | str) -> str:
    return type(value).__name__


def unknown_keys(header: Header) -> tuple[str, ...]:
    """The keys of overrides that are not in the file's own metadata."""
    return tuple(
        override.key
        for override in header.overrides
        if override.key not in header.raw and not override.key.startswith("tokenizer.")
    )
