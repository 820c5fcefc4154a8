"""The scheduler's promises, by tables and by hypothesis's sequences of events.

Past 400 lines because the tables and the sequences share one model of an engine.
"""

from collections.abc import Sequence as Several

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.engine.fake_memory import FakeMemory
from tests.engine.fixed_prefill import FixedPrefill
from vram_llm.engine.kv_cache.offload_store import OffloadStore
from vram_llm.engine.kv_cache.prefix_cache import PrefixCache
from vram_llm.engine.scheduler import MAX_PASSED, Scheduler
from vram_llm.engine.sequence import Chunk, ImageSpan, Sequence


def _cache(
    n_cells: int,
    parallel: int,
    min_prefix_tokens: int = 0,
    *,
    is_stateful: bool = False,
    can_share: bool = True,
    store: OffloadStore | None = None,
    max_idle_cells: int | None = None,
) -> PrefixCache:
    return PrefixCache(
        memory=FakeMemory(n_cells, parallel, is_stateful=is_stateful, can_share=can_share),
        n_cells=n_cells,
        n_slots=parallel,
        n_parked=parallel if can_share and not is_stateful else 0,
        can_share=can_share,
        min_prefix_tokens=min_prefix_tokens,
        store=store or OffloadStore(0),
        max_idle_cells=max_idle_cells,
        min_offload_tokens=3,
    )


def _scheduler(
    n_cells: int = 100, parallel: int = 4, max_rows: int = 32, prefill_budget: int = 8
) -> Scheduler:
    return Scheduler(_cache(n_cells, parallel), FixedPrefill(prefill_budget), parallel, max_rows, max_rows)


def _sequence(name: str, n_prompt: int, max_tokens: int = 10) -> Sequence:
    return Sequence(name, list(range(n_prompt)), n_prompt, max_tokens)


def _submit(scheduler: Scheduler, *sequences: Sequence) -> None:
    for sequence in sequences:
        scheduler.submit(sequence)


def _run(chunks: Several[Chunk]) -> list[tuple[str, int, int]]:
    """Do what the engine does with a step. Returns the step as (id, start, count)."""
    for chunk in chunks:
        samples = chunk.samples
        chunk.sequence.n_cached += chunk.count
        if samples:
            chunk.sequence.tokens.append(0)
    return [(chunk.sequence.id, chunk.start, chunk.count) for chunk in chunks]


def _finish(scheduler: Scheduler, name: str) -> None:
    sequence = scheduler.find(name)
    assert sequence is not None
    scheduler.remove(sequence)


def test_images_are_computed_whole_and_one_a_step() -> None:
    scheduler = _scheduler(n_cells=200)
    for name, start in (("a", 10), ("b", 5)):
        sequence = _sequence(name, 60)
        sequence.images = (ImageSpan(start, 40, 6, None),)  # type: ignore[arg-type]  # nobody looks at its rows
        scheduler.submit(sequence)
    assert _run(scheduler.schedule()) == [("a", 0, 10), ("b", 0, 5)]
    chunks = scheduler.schedule()
    assert [chunk.image is not None for chunk in chunks] == [True]
    assert _run(chunks) == [("a", 10, 40)]
    assert _run(scheduler.schedule()) == [("a", 50, 10), ("b", 5, 40)]
    assert _run(scheduler.schedule()) == [("a", 60, 1), ("b", 45, 8)]
    one = scheduler.running[0]
    assert [one.position(place) for place in (0, 10, 50, 60)] == [0, 10, 16, 26]
    assert (one.n_shared, len(one.cache_key(60))) == (10, 10)


def test_a_lone_prompt_goes_in_the_largest_chunks() -> None:
    scheduler = _scheduler()
    _submit(scheduler, _sequence("a", 70))
    assert [_run(scheduler.schedule()) for _ in range(4)] == [
        [("a", 0, 32)],
        [("a", 32, 32)],
        [("a", 64, 6)],
        [("a", 70, 1)],
    ]


def test_a_prompt_beside_a_stream_goes_in_small_chunks() -> None:
    scheduler = _scheduler()
    _submit(scheduler, _sequence("a", 3))
    _run(scheduler.schedule())
    _submit(scheduler, _sequence("b", 20))
    assert [_run(scheduler.schedule()) for _ in range(4)] == [
        [("a", 3, 1), ("b", 0, 8)],
        [("a", 4, 1), ("b", 8, 8)],
        [("a", 5, 1), ("b", 16, 4)],
        [("a", 6, 1), ("b", 20, 1)],
    ]


def test_rows_that_a_prompt_leaves_go_to_the_next_prompt() -> None:
    scheduler = _scheduler()
    _submit(scheduler, _sequence("a", 10), _sequence("b", 30), _sequence("c", 1))
    assert _run(scheduler.schedule()) == [("a", 0, 10), ("b", 0, 22)]
    assert _run(scheduler.schedule()) == [("a", 10, 1), ("b", 22, 8)]
    assert _run(scheduler.schedule()) == [("a", 11, 1), ("b", 30, 1), ("c", 0, 1)]


def test_prompts_that_all_fit_are_computed_in_two_steps() -> None:
    scheduler = _scheduler(n_cells=2000, parallel=8, max_rows=512)
    _submit(scheduler, *(_sequence(f"s{i}", 60) for i in range(6)))
    assert [name for name, *_ in _run(scheduler.schedule())] == ["s0", "s1", "s2"]
    scheduler.prefill = FixedPrefill(300)
    assert [name for name, *_ in _run(scheduler.schedule())] == [f"s{i}" for i in range(6)]


@pytest.mark.parametrize(("n_prompts", "length"), [(2, 63), (4, 32), (9, 60)])
def test_few_rows_and_more_than_a_step_can_hold_are_not_halved(n_prompts: int, length: int) -> None:
    scheduler = _scheduler(n_cells=2000, parallel=16, max_rows=512)
    _submit(scheduler, *(_sequence(f"s{i}", length) for i in range(n_prompts)))
    n_rows = sum(count for _, _, count in _run(scheduler.schedule()))
    assert n_rows == min(n_prompts * length, 512)


def test_a_chunk_ends_at_a_checkpoint() -> None:
    scheduler = _scheduler(max_rows=64)
    _submit(scheduler, _sequence("a", 40), _sequence("b", 3))
    (chunk, _) = scheduler.schedule()
    chunk.sequence.checkpoint_positions = [5, 30]
    chunk.sequence.n_cached = 5
    assert _run(scheduler.schedule())[0] == ("a", 5, 25)
    assert _run(scheduler.schedule()) == [("b", 3, 1), ("a", 30, 8)]


def test_no_more_run_than_there_are_slots() -> None:
    scheduler = _scheduler(parallel=2)
    _submit(scheduler, *(_sequence(name, 2) for name in "abc"))
    assert _run(scheduler.schedule()) == [("a", 0, 2), ("b", 0, 2)]
    assert _run(scheduler.schedule()) == [("a", 2, 1), ("b", 2, 1)]
    first = scheduler.find("a")
    assert first is not None
    slot = first.slot
    scheduler.remove(first)
    assert _run(scheduler.schedule()) == [("b", 3, 1), ("c", 0, 2)]
    third = scheduler.find("c")
    assert third is not None
    assert third.slot == slot


def test_no_more_run_than_a_step_has_rows() -> None:
    scheduler = _scheduler(parallel=8, max_rows=3)
    _submit(scheduler, *(_sequence(name, 1) for name in "abcde"))
    for _ in range(5):
        assert [name for name, _, _ in _run(scheduler.schedule())] == ["a", "b", "c"]


@pytest.mark.parametrize(("n_cells", "both"), [(31, False), (32, True)])
def test_a_new_sequence_needs_cells_for_its_tokens_and_the_next_step(n_cells: int, both: bool) -> None:
    scheduler = _scheduler(n_cells=n_cells)
    _submit(scheduler, _sequence("a", 10))
    _run(scheduler.schedule())  # it has 11 now
    _submit(scheduler, _sequence("b", 19))
    scheduler.schedule()
    assert len(scheduler.running) == 1 + both


def test_one_that_does_not_fit_is_passed_a_few_times_and_no_more() -> None:
    scheduler = _scheduler(n_cells=40, parallel=2)
    _submit(scheduler, _sequence("a", 20, max_tokens=0), _sequence("big", 30))
    _submit(scheduler, *(_sequence(f"small {i}", 1) for i in range(MAX_PASSED + 1)))
    scheduler.schedule()
    for i in range(MAX_PASSED):
        assert [sequence.id for sequence in scheduler.running] == ["a", f"small {i}"]
        _finish(scheduler, f"small {i}")
        scheduler.schedule()
    assert [sequence.id for sequence in scheduler.running] == ["a"]
    _finish(scheduler, "a")
    scheduler.schedule()
    assert [sequence.id for sequence in scheduler.running] == ["big", f"small {MAX_PASSED}"]


def test_one_that_fills_the_cells_runs_alone() -> None:
    scheduler = _scheduler(n_cells=32)
    _submit(scheduler, _sequence("a", 31), _sequence("b", 1))
    assert _run(scheduler.schedule()) == [("a", 0, 31)]
    scheduler.make_room()
    assert _run(scheduler.schedule()) == [("a", 31, 1)]


def test_the_youngest_is_preempted_and_computed_again() -> None:
    scheduler = _scheduler(n_cells=12)
    _submit(scheduler, _sequence("a", 4), _sequence("b", 4))
    _run(scheduler.schedule())
    _run(scheduler.schedule())
    scheduler.make_room()
    assert len(scheduler.running) == 2  # 6 and 6: exactly full
    _run(scheduler.schedule())
    b = scheduler.running[1]
    n_tokens = len(b.tokens)
    scheduler.make_room()
    assert (b.slot, b.n_cached, len(b.tokens), b.n_generated) == (-1, 0, n_tokens, 3)
    assert (scheduler.waiting, scheduler.n_preemptions) == ([b], 1)
    assert _run(scheduler.schedule()) == [("a", 6, 1)]
    scheduler.remove(scheduler.running[0])
    assert _run(scheduler.schedule()) == [("b", 0, n_tokens)]


def test_preempted_sequences_wait_in_order_of_arrival() -> None:
    scheduler = _scheduler(n_cells=23)
    _submit(scheduler, *(_sequence(name, 5) for name in "abcd"))
    _run(scheduler.schedule())
    assert [sequence.id for sequence in scheduler.running] == ["a", "b", "c"]
    for sequence in scheduler.running:
        sequence.tokens += [0] * 10
    scheduler.make_room()
    assert scheduler.n_preemptions == 2
    assert [sequence.id for sequence in scheduler.waiting] == ["b", "c", "d"]


def test_the_last_one_is_never_preempted() -> None:
    scheduler = _scheduler()
    assert not scheduler.preempt()
    _submit(scheduler, _sequence("a", 5))
    scheduler.schedule()
    assert not scheduler.preempt()


def test_removing_one_that_waits() -> None:
    scheduler = _scheduler(parallel=1)
    _submit(scheduler, _sequence("a", 2), _sequence("b", 2))
    scheduler.schedule()
    _finish(scheduler, "b")
    assert scheduler.find("b") is None
    assert not scheduler.waiting


def test_nothing_to_do_is_an_empty_step() -> None:
    assert _scheduler().schedule() == []


class Engine(RuleBasedStateMachine):
    """Requests of several clients come, run and end over a cache that shares, offloads and evicts, with each
    kind of memory.

    The memory checks that a token is computed only on cells that hold the tokens before it.
    """

    @initialize(
        n_cells=st.integers(4, 60),
        parallel=st.integers(1, 5),
        max_rows=st.integers(1, 20),
        budget=st.integers(1, 8),
        min_prefix_tokens=st.integers(0, 4),
        is_stateful=st.booleans(),
        can_share=st.booleans(),
        ram_bytes=st.sampled_from([0, 200, 100_000]),
        disk_bytes=st.sampled_from([0, 200, 100_000]),
        max_idle_cells=st.sampled_from([0, 5, 60]),
        n_clients=st.integers(1, 3),
    )
    def start(
        self,
        n_cells: int,
        parallel: int,
        max_rows: int,
        budget: int,
        min_prefix_tokens: int,
        is_stateful: bool,
        can_share: bool,
        ram_bytes: int,
        disk_bytes: int,
        max_idle_cells: int,
        n_clients: int,
    ) -> None:
        self.n_clients = n_clients
        store = OffloadStore(ram_bytes, disk_bytes)
        self.cache = _cache(
            n_cells,
            parallel,
            min_prefix_tokens,
            is_stateful=is_stateful,
            can_share=can_share,
            store=store,
            max_idle_cells=max_idle_cells,
        )
        memory = self.cache.memory
        assert isinstance(memory, FakeMemory)
        self.memory = memory
        self.scheduler = Scheduler(self.cache, FixedPrefill(budget), parallel, max_rows, max_rows)
        self.order: dict[str, int] = {}  # when each was submitted
        self.alive: set[str] = set()
        self.prompts: list[list[int]] = [[0]]

    @rule(data=st.data())
    def submit(self, data: st.DataObject) -> None:
        """As in the loop, prompt and answer fit the cells together. Many begin like another request."""
        n_prompt = data.draw(st.integers(1, self.cache.n_cells - 1))
        max_tokens = data.draw(st.integers(0, self.cache.n_cells - n_prompt))
        before = data.draw(st.sampled_from(self.prompts))
        fresh = data.draw(st.lists(st.integers(0, 2), min_size=n_prompt, max_size=n_prompt))
        shared = data.draw(st.integers(0, n_prompt))
        prompt = [*before[:shared], *fresh][:n_prompt]
        self.prompts.append(prompt)
        client = data.draw(st.integers(1, self.n_clients))
        sequence = Sequence(
            f"r{len(self.order)}", list(prompt), n_prompt, max_tokens, client=f"{client}", weight=client
        )
        self.order[sequence.id] = len(self.order)
        self.alive.add(sequence.id)
        self.scheduler.submit(sequence)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.alive)))
        _finish(self.scheduler, name)
        self.alive.remove(name)

    @rule(n_refused=st.integers(0, 2))
    def step(self, n_refused: int) -> None:
        """A step in which llama.cpp finds no room for `n_refused` times."""
        chunks = self.scheduled()
        for _ in range(n_refused):
            if not self.cache.evict() and not self.scheduler.preempt():
                break
            chunks = [chunk for chunk in chunks if chunk.sequence.slot >= 0]
        self.finish(chunks)

    def scheduled(self) -> list[Chunk]:
        scheduler = self.scheduler
        scheduler.make_room()
        assert scheduler.n_cells_wanted <= self.cache.n_cells or len(scheduler.running) == 1
        before = list(scheduler.running)
        decoding = [sequence for sequence in before if sequence.n_pending == 1]
        chunks = scheduler.schedule()

        named = [chunk.sequence.id for chunk in chunks]
        assert len(set(named)) == len(named)
        assert all(chunk.start == chunk.sequence.n_cached and chunk.count > 0 for chunk in chunks)
        assert all(chunk.start + chunk.count <= len(chunk.sequence.tokens) for chunk in chunks)
        assert [chunk.sequence for chunk in chunks[: len(decoding)]] == decoding  # none of them is delayed
        assert sum(chunk.count for chunk in chunks) <= scheduler.max_rows
        n_prefill = sum(chunk.count for chunk in chunks[len(decoding) :])
        assert not decoding or n_prefill <= scheduler.prefill.prefill_rows(1, 1)
        assert bool(chunks) == bool(self.alive)
        if before and self.n_clients == 1:  # the oldest always advances
            assert before[0].id in named
        return chunks

    def finish(self, chunks: list[Chunk]) -> None:
        n_rows = sum(chunk.count for chunk in chunks)
        self.cache.make_room(n_rows)
        for chunk in chunks:
            sequence, samples = chunk.sequence, chunk.samples
            tokens = sequence.tokens[chunk.start : chunk.start + chunk.count]
            self.memory.compute(sequence.slot, chunk.start, tokens)
            sequence.n_cached += chunk.count
            if chunk.start < sequence.n_prompt:
                self.cache.publish(sequence)
            if samples and sequence.max_tokens:
                sequence.tokens.append(sequence.n_generated % 2)
            if samples and sequence.n_generated >= sequence.max_tokens:
                self.scheduler.remove(sequence)
                self.alive.remove(sequence.id)

    @invariant()
    def slots_are_not_shared(self) -> None:
        if hasattr(self, "scheduler"):
            slots = [sequence.slot for sequence in self.scheduler.running]
            assert len(set(slots)) == len(slots) <= self.scheduler.parallel
            assert all(0 <= slot < self.scheduler.parallel for slot in slots)
            if self.scheduler.running and self.cache.n_parked and self.cache.store.would_keep(1):
                assert self.cache.n_idle_cells <= (self.cache.max_idle_cells or 0)
            assert all(sequence.slot < 0 and not sequence.n_cached for sequence in self.scheduler.waiting)

    @invariant()
    def slots_hold_what_is_thought(self) -> None:
        if hasattr(self, "scheduler"):
            for sequence in self.scheduler.running:
                assert self.memory.tokens(sequence.slot) == sequence.tokens[: sequence.n_cached]
            assert self.memory.n_used <= self.cache.n_used <= self.cache.n_cells
            assert self.cache.store.ram_used_bytes <= self.cache.store.ram_bytes
            assert self.cache.store.disk_used_bytes <= self.cache.store.disk_bytes

    @invariant()
    def queues_are_by_arrival(self) -> None:
        if hasattr(self, "scheduler"):
            everyone = [*self.scheduler.running, *self.scheduler.waiting]
            assert {sequence.id for sequence in everyone} == self.alive
            for queue in (self.scheduler.running, self.scheduler.waiting):
                came = [self.order[sequence.id] for sequence in queue]
                assert came == sorted(came)

    def teardown(self) -> None:
        """Every sequence finishes, in as many steps as they take one by one; then nothing is held."""
        if not hasattr(self, "scheduler"):
            return
        everyone = [*self.scheduler.running, *self.scheduler.waiting]
        most_steps = sum(2 * sequence.n_prompt + sequence.max_tokens + 1 for sequence in everyone)
        most_steps *= self.n_clients  # those preempted for another client are computed again
        try:
            for _ in range(most_steps):
                self.finish(self.scheduled())
            assert not self.alive
            self.cache.make_room(self.cache.n_cells)
            assert (self.memory.slots, self.cache.n_used, self.cache.n_pinned) == (set(), 0, 0)
        finally:
            self.cache.store.close()


Engine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestEngine = pytest.mark.process(Engine.TestCase)  # computes for seconds
