"""The offloaded prefix that a prompt begins with."""

import numpy as np
import pytest

from vram_llm.engine.kv_cache.offload_store import OffloadStore
from vram_llm.engine.kv_cache.offloaded_prefixes import OffloadedPrefixes

STATE = np.zeros(10, np.uint8)


def _prefixes(*held: list[int], whole_only: bool = False, ram_bytes: int = 100) -> OffloadedPrefixes:
    prefixes = OffloadedPrefixes(OffloadStore(ram_bytes), whole_only)
    for tokens in held:
        prefixes.add(tokens, STATE)
    return prefixes


@pytest.mark.parametrize(
    ("whole_only", "tokens", "length"),
    [
        (False, [1, 2, 3, 4, 9], 4),
        (False, [1, 2, 9], 2),
        (False, [5, 6, 7, 8], 2),
        (False, [9], 0),
        (True, [1, 2, 3, 4, 9], 4),
        (True, [1, 2, 9], 0),
        (True, [5, 6, 7, 8], 2),
    ],
)
def test_the_longest_beginning(whole_only: bool, tokens: list[int], length: int) -> None:
    prefixes = _prefixes([1, 2, 3, 4], [5, 6], whole_only=whole_only)
    n, key = prefixes.longest(tokens)
    assert n == length
    assert (key is None) == (length == 0)


@pytest.mark.parametrize(("whole_only", "left"), [(False, 1), (True, 2)])
def test_a_longer_prefix_replaces_a_shorter_one_if_a_part_is_usable(whole_only: bool, left: int) -> None:
    prefixes = _prefixes([1, 2], [1, 2, 3], whole_only=whole_only)
    assert prefixes.store.ram_used_bytes == 10 * left
    assert prefixes.has([1, 2])
    assert prefixes.has([1]) != whole_only


def test_a_state_that_the_store_dropped_is_not_offered() -> None:
    prefixes = _prefixes([1, 2], [3, 4], ram_bytes=10)
    assert prefixes.longest([1, 2]) == (0, None)
    assert prefixes.longest([3, 4])[0] == 2
