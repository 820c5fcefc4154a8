"""String formats in JSON schemas. Formats outside the standard have no effect."""

from typing import Any

_KNOWN = frozenset(
    {
        "date-time", "date", "time", "duration", "email", "idn-email", "hostname", "idn-hostname", "ipv4",
        "ipv6", "uri", "uri-reference", "iri", "iri-reference", "uuid", "uri-template", "json-pointer",
        "relative-json-pointer", "regex",
    }
)  # fmt: skip
_DATA = frozenset({"const", "enum", "default", "examples"})  # these hold data, not schemas


def without_own_formats(schema: Any) -> Any:
    """`schema` without formats outside the standard ("int32", "password"), which are only annotations.

    Source: JSON Schema 2020-12, Validation, section 7.
    """
    if isinstance(schema, list):
        return [without_own_formats(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value if key in _DATA else without_own_formats(value)
        for key, value in schema.items()
        if not (key == "format" and isinstance(value, str) and value not in _KNOWN)
    }
