"""Formats of a client's own in JSON schemas."""

from vram_llm.server.schema_formats import without_own_formats


def test_names_that_the_standard_does_not_know_are_left_out() -> None:
    schema = {
        "properties": {
            "format": {"type": "string", "format": "password"},
            "when": {
                "anyOf": [{"type": "string", "format": "date-time"}, {"type": "integer", "format": "int32"}]
            },
            "of": {"const": {"format": "own"}},
        }
    }
    assert without_own_formats(schema) == {
        "properties": {
            "format": {"type": "string"},
            "when": {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "integer"}]},
            "of": {"const": {"format": "own"}},
        }
    }
