"""States within bounds: the last ones used stay longest, in RAM, then on disk, and come back unchanged."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from vram_llm.engine.kv_cache.offload_store import OffloadStore, State


def _state(n_bytes: int, fill: int = 7) -> State:
    return np.full(n_bytes, fill, np.uint8)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[OffloadStore]:
    """100 bytes of RAM, 200 of disk."""
    store = OffloadStore(100, 200, str(tmp_path))
    yield store
    store.close()
    assert (store.ram_used_bytes, store.disk_used_bytes) == (0, 0)


def _fills(store: OffloadStore, keys: list[int]) -> list[int | None]:
    return [None if (state := store.get(key)) is None else int(state[0]) for key in keys]


def test_ram_then_disk_then_gone(store: OffloadStore) -> None:
    keys = [store.put(_state(40, fill)) for fill in range(9)]
    assert _fills(store, keys) == [None, None, 2, 3, 4, 5, 6, 7, 8]
    assert (store.ram_used_bytes, store.disk_used_bytes) == (80, 200)
    assert [key in store for key in keys] == [False] * 2 + [True] * 7


def test_a_state_that_is_read_stays_longer(store: OffloadStore) -> None:
    keys = [store.put(_state(40, fill)) for fill in range(7)]
    assert _fills(store, keys[:2]) == [0, 1]
    more = [store.put(_state(40, fill)) for fill in (7, 8)]
    assert _fills(store, [*keys, *more]) == [0, 1, None, None, 4, 5, 6, 7, 8]


def test_a_state_comes_back_from_disk_as_it_was(store: OffloadStore) -> None:
    state = np.random.default_rng(1).integers(0, 256, 90, np.uint8)
    key = store.put(state)
    store.put(_state(90))
    assert store.ram_used_bytes == 90
    for _ in range(2):
        found = store.get(key)
        assert found is not None
        assert np.array_equal(found, state)


def test_one_larger_than_ram_goes_to_disk(store: OffloadStore) -> None:
    key = store.put(_state(150))
    assert (store.ram_used_bytes, store.disk_used_bytes) == (0, 150)
    assert key in store


@pytest.mark.parametrize(
    ("ram_bytes", "disk_bytes", "n_bytes", "kept"),
    [(0, 0, 1, False), (10, 0, 10, True), (10, 0, 11, False), (10, 20, 20, True), (10, 20, 21, False)],
)
def test_a_state_over_both_bounds_is_not_kept(
    ram_bytes: int, disk_bytes: int, n_bytes: int, kept: bool
) -> None:
    store = OffloadStore(ram_bytes, disk_bytes)
    assert store.would_keep(n_bytes) == kept
    assert (store.put(_state(n_bytes)) in store) == kept
    store.close()


def test_a_disk_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    store = OffloadStore(0, 100, str(tmp_path / "absent"))
    assert store.put(_state(50)) not in store


def test_nothing_is_left_on_disk(store: OffloadStore, tmp_path: Path) -> None:
    for _ in range(5):
        store.put(_state(60))
    assert store.disk_used_bytes == 180
    assert list(tmp_path.iterdir()) == []  # the files have no names


def test_dropping(store: OffloadStore) -> None:
    keys = [store.put(_state(60)) for _ in range(2)]
    for key in (*keys, *keys, 99):
        store.drop(key)
    assert (store.ram_used_bytes, store.disk_used_bytes) == (0, 0)


def test_a_state_that_the_disk_has_lost_is_gone(store: OffloadStore) -> None:
    keys = [store.put(_state(40, fill)) for fill in range(4)]
    _, file = store._disk[keys[0]]
    file.truncate(10)
    assert _fills(store, keys) == [None, 1, 2, 3]
    assert keys[0] not in store
