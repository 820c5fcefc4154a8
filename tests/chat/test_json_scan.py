"""The scanner agrees with Python's own reader of JSON on what is a value, and where it ends."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_llm.chat.json_scan import MAX_DEPTH, JsonScan

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def scan(text: str, step: int = 1) -> tuple[bool, bool, str]:
    """Whether the scan was done, whether broken, and what it took."""
    scanner, taken = JsonScan(), ""
    for at in range(0, len(text), step):
        piece = text[at : at + step]
        end = scanner.feed(piece)
        taken += piece[:end]
        if scanner.done or scanner.broken:
            break
    return scanner.done, scanner.broken, taken


@given(value=_values, ascii_only=st.booleans(), indent=st.sampled_from([None, 1]), step=st.integers(1, 9))
def test_whole_values(value: Any, ascii_only: bool, indent: int | None, step: int) -> None:
    text = json.dumps([value], ensure_ascii=ascii_only, indent=indent)
    assert scan(text + " ]more", step) == (True, False, text)


@given(st.text(alphabet='{}[]",:\\u0a1e-.tfn \n', max_size=12))
def test_invalid_json(text: str) -> None:
    done, _, taken = scan("[" + text)
    try:
        _, end = json.JSONDecoder().raw_decode("[" + text)
    except ValueError:
        assert not done
    else:
        assert (done, taken) == (True, ("[" + text)[:end])


@pytest.mark.parametrize(
    "text",
    [
        "{,",
        "[1,]",
        '{"a":1,}',
        "[01]",
        "[1.]",
        "[+1]",
        "[tru]",
        '["\\x"]',
        '["\\u00g0"]',
        '["\n"]',
        "[NaN]",
        "3",
        "x",
        "[" * (MAX_DEPTH + 1),
        "[" + "1" * 500 + "]",
        "[}",
        '{"a"]',
        "{1:2}",
    ],
)
def test_broken(text: str) -> None:
    done, broken, _ = scan(text)
    assert (done, broken) == (False, True)


@pytest.mark.parametrize("text", ["{", '{"a', '{"a": [1, {"b": "\\', "[" * MAX_DEPTH, "[12"])
def test_not_yet_decided(text: str) -> None:
    assert scan(text) == (False, False, text)
