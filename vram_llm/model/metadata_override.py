"""A value that replaces one of a model file's metadata: llama_model_kv_override of llama.h."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MetadataOverride:
    """A key, and the value that it has instead of the file's."""

    key: str
    value: bool | int | float | str

    @property
    def type_name(self) -> str:
        """llama.cpp's word for the type of the value."""
        return type(self.value).__name__

    def __str__(self) -> str:
        """As llama.cpp reads it: "KEY=TYPE:VALUE"."""
        value = str(self.value).lower() if isinstance(self.value, bool) else str(self.value)
        return f"{self.key}={self.type_name}:{value}"
