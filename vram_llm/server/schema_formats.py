"""Formats of strings in JSON schemas: names that the standard does not know ask for nothing."""

from typing import Any

_KNOWN = frozenset(
    {
        "date-time", "date", "time", "duration", "email", "idn-email", "hostname", "idn-hostname", "ipv4",
        "ipv6", "uri", "uri-reference", "iri", "iri-reference", "uuid", "uri-template", "json-pointer",
        "relative-json-pointer", "regex",
    }
)  # fmt: skip
_DATA = frozenset({"const", "enum", "default", "examples"})  # no schemas, whatever their keys are


def without_own_formats(schema: Any) -> Any:
    """`schema` without formats of a client's own ("int32", "password"): to the standard they are annotations.

    Source: JSON Schema 2020-12, Validation, section 7.
    """
    if isinstance(schema, list):
        return [without_own_formats(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value if key in _DATA else without_own_formats(value)
        for key, value in schema.items()
        if not (key == "format" and isinstance(value, str) and value not in _KNOWN)
    }
