"""Slots in files: saved, restored in another engine, erased; on models of three kinds of memory."""

import threading
from collections.abc import Callable
from concurrent.futures import wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.companions import write_mmproj
from tests.engine.harness import EXACT, loaded, make_request, run, tokens_of, turns
from tests.engine.slots.slot_loop import KINDS, PROMPT, NewLoop, SlotLoop, words
from tests.patience import PATIENCE_S
from tests.pictures import png
from vram_llm.engine import prefill_budget, slot_actions, wire
from vram_llm.engine.kv_cache import saved_slots
from vram_llm.engine.request import Image, TokenEvent
from vram_llm.engine.slot_order import SlotAction, SlotDone, SlotOrder
from vram_llm.machine.types import Host, Machine
from vram_llm.planner.types import Serving, Workload
from vram_llm.units import MIB
from vram_llm.workflows import planning


@pytest.mark.parametrize("kv_unified", [True, False])
@pytest.mark.parametrize("ram", [0, 64 * MIB])  # idle prefixes stay in the KV cache, or move to the host
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_engine_continues_after_a_saved_slot(
    new_loop: NewLoop, tmp_path: Path, kind: str, ram: int, kv_unified: bool
) -> None:
    options = {"serving": Serving(slots_ram_bytes=ram), "kv_unified": kv_unified}
    before, file = new_loop(kind, **options), tmp_path / "chat.bin"
    first = before.answer(PROMPT)
    saved = before.order("save", 0, file)
    assert (saved.error, saved.n_tokens, saved.n_bytes) == (None, len(PROMPT) + 7, file.stat().st_size)
    turn = (*PROMPT, *tokens_of(first), *words(2, 9))
    same = before.answer(turn)

    after = new_loop(kind, **options)
    restored = after.order("restore", 1, file)
    assert (restored.error, restored.n_tokens, restored.n_bytes) == (None, saved.n_tokens, saved.n_bytes)
    assert after.states.held == [0, saved.n_tokens]
    n_prompt = after.stats().n_prompt_tokens
    again = after.answer(turn)
    assert (again[-1].cached_tokens, same[-1].cached_tokens) == (saved.n_tokens, saved.n_tokens)
    assert after.stats().n_prompt_tokens - n_prompt == len(turn) - saved.n_tokens
    assert tokens_of(again) == tokens_of(same)


def test_the_same_prompt_costs_one_token_after_a_restore(new_loop: NewLoop, tmp_path: Path) -> None:
    before, after, file = new_loop(), new_loop(), tmp_path / "a"
    first = before.answer(PROMPT)
    before.order("save", 0, file)
    after.order("restore", 0, file)
    again = after.answer(PROMPT)
    assert again[-1].cached_tokens == len(PROMPT) - 1
    assert tokens_of(again) == tokens_of(first)


@pytest.mark.parametrize("kind", KINDS)
def test_an_erased_slot_is_computed_anew(new_loop: NewLoop, kind: str) -> None:
    loop = new_loop(kind)
    loop.answer(PROMPT)
    assert loop.order("erase").n_tokens == len(PROMPT) + 7
    assert loop.states.held == [0, 0]
    assert loop.answer(PROMPT)[-1].cached_tokens == 0
    assert (loop.order("erase").n_tokens, loop.order("erase").error) == (0, None)


def test_requests_take_the_slots_that_they_ask_for(new_loop: NewLoop, tmp_path: Path) -> None:
    loop = new_loop()
    loop.answer(PROMPT, id_slot=1)
    assert loop.states.held == [0, len(PROMPT) + 7]
    loop.answer(words(3, 270))  # the other one is empty
    assert loop.states.held == [277, len(PROMPT) + 7]
    loop.answer((*PROMPT, 5, 6, 7))  # the slot that holds its beginning
    assert loop.states.held == [277, len(PROMPT) + 10]
    loop.answer(words(5, 270), id_slot=1)
    assert loop.states.held == [277, 277]
    assert loop.order("save", 1, tmp_path / "a").n_tokens == 277
    assert loop.order("save", 0, tmp_path / "b").n_tokens == 277
    loop.answer(words(6, 280))  # the least recently used
    assert loop.states.held == [287, 277]
    loop.order("erase", 1)
    assert loop.order("restore", 0, tmp_path / "a").error is None
    assert loop.answer(words(5, 270), id_slot=1)[-1].cached_tokens == 269


def test_requests_for_one_slot_run_one_after_the_other(new_loop: NewLoop) -> None:
    loop = new_loop()
    wanted = [make_request(f"r{i}", words(i, 50), max_tokens=8, id_slot=1) for i in range(3)]
    found = run(loop, *wanted, make_request("any", words(9, 50), max_tokens=8))
    assert all(events[-1].error is None for events in found.values())
    seen = [each.running for each in loop.sent if isinstance(each, wire.SlotStates)]
    at_slot_1 = [request_id for running in seen for request_id, slot in running.items() if slot == 1]
    assert list(dict.fromkeys(at_slot_1)) == ["r0", "r1", "r2"]
    assert any("any" in running for running in seen[:2])  # it did not wait for them


def test_the_start_of_a_step_is_reported_at_once_unless_it_is_brief(
    new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for brief_s, n_posted in ((0.0, 1), (float("inf"), 2)):
        monkeypatch.setattr(prefill_budget, "_BRIEF_S", brief_s)
        loop = new_loop()
        loop.answer(words(3, 50))
        assert (len(loop.sent), loop.n_posted) == (
            2,
            1,
        )  # the start, before the time of rows is known; the end
        loop.answer(words(4, 50))
        assert (len(loop.sent), loop.n_posted) == (4, 1 + n_posted)


def test_an_order_waits_for_the_request_in_its_slot(new_loop: NewLoop, tmp_path: Path) -> None:
    loop = new_loop()
    loop.submit(make_request("r", PROMPT, max_tokens=30))
    loop.step()
    saved = loop.order("save", 0, tmp_path / "a")
    assert (saved.error, saved.n_tokens) == (None, len(PROMPT) + 29)


def test_a_cancelled_order_is_not_done(new_loop: NewLoop, tmp_path: Path) -> None:
    loop = new_loop()
    loop.submit(make_request("r", PROMPT, max_tokens=8))
    loop.step()
    loop.slot_actions.add(SlotOrder(id="o", action=SlotAction.SAVE, slot=0, path=str(tmp_path / "a")))
    loop.slot_actions.cancel("o")
    for _ in turns(loop):
        pass
    assert list(tmp_path.iterdir()) == []


def test_orders_that_wait_hold_few_states(
    new_loop: NewLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state may have gigabytes: one is written at a time, and one is read for each slot."""
    loop, file, disk_is_free = new_loop(), tmp_path / "a", threading.Event()
    loop.answer(PROMPT, id_slot=0)
    loop.order("save", 0, file)
    write = saved_slots.write_slot

    def slow(*args: Any) -> int:
        assert disk_is_free.wait(PATIENCE_S)
        return write(*args)

    monkeypatch.setattr(slot_actions, "write_slot", slow)
    loop.submit(make_request("r", words(4, 60), max_tokens=40, id_slot=1))
    steps = turns(loop)
    next(steps)
    for i in range(4):
        for name, slot, path in (("save", 0, tmp_path / f"b{i}"), ("restore", 1, file)):
            loop.slot_actions.add(
                SlotOrder(id=f"{name}{i}", action=SlotAction(name), slot=slot, path=str(path))
            )
    for _ in range(20):
        next(steps)
    waiting = loop.slot_actions.orders
    assert [name for name in waiting if name.startswith("save")] == ["save1", "save2", "save3"]
    assert [name for name, each in waiting.items() if each.reading is not None] == ["restore0"]
    loop.slot_actions.cancel("restore0")
    disk_is_free.set()
    for _ in steps:
        pass
    assert loop.slot_actions._writing is not None
    loop.slot_actions._writing.result(PATIENCE_S)
    done = {each.id: each.error for each in loop.sent if isinstance(each, SlotDone) and each.id != "order"}
    names = (*(f"save{i}" for i in range(4)), *(f"restore{i}" for i in range(1, 4)))
    assert done == dict.fromkeys(names)


def test_streams_go_on_while_another_slot_is_saved_and_restored(new_loop: NewLoop, tmp_path: Path) -> None:
    alone, loop = new_loop(), new_loop()
    other = words(4, 60)
    expected = tokens_of(alone.answer(other, max_tokens=60))
    loop.answer(PROMPT, id_slot=1)
    loop.submit(make_request("r", other, max_tokens=60, id_slot=0))
    events: list[TokenEvent] = []
    steps = turns(loop)
    for action in (SlotAction.SAVE, SlotAction.ERASE, SlotAction.RESTORE):
        loop.answered.clear()
        loop.slot_actions.add(SlotOrder(id=action, action=action, slot=1, path=str(tmp_path / "a")))
        if action is SlotAction.RESTORE:
            wait([each.reading for each in loop.slot_actions.orders.values() if each.reading is not None])
        events += next(steps)
        assert loop.answered.wait(PATIENCE_S)
        events += next(steps)
    assert not loop.is_idle
    events += [event for step in steps for event in step]
    answers = [each for each in loop.sent if isinstance(each, SlotDone)]
    assert [(each.error, each.n_tokens) for each in answers] == [(None, len(PROMPT) + 7)] * 3
    assert tokens_of(events) == expected
    assert loop.answer(PROMPT)[-1].cached_tokens == len(PROMPT) - 1


def test_a_prompt_that_nobody_shares_is_saved_too(new_loop: NewLoop, tmp_path: Path) -> None:
    """As one with cache_prompt false, which has a namespace of its own."""
    loop = new_loop()
    loop.answer(PROMPT, namespace=12345, client="127.0.0.1")
    assert loop.order("save", 0, tmp_path / "a").n_tokens == len(PROMPT) + 7
    assert loop.order("restore", 1, tmp_path / "a").error is None
    assert loop.answer(PROMPT)[-1].cached_tokens == len(PROMPT) - 1


@pytest.mark.process
def test_a_prompt_with_an_image(host: Host, tmp_path: Path, path_of: Callable[[str], Path]) -> None:
    """Its rows are restored too, where the same projector is loaded; a text alone needs none."""
    with ExitStack() as models:

        def load(mmproj: Path | None) -> SlotLoop:
            wish = Workload(
                n_ctx=1024, parallel=2, reserve_bytes=0, n_batch=64, n_ubatch=32, find_mmproj=False,
                mmproj=None if mmproj is None else str(mmproj), serving=Serving(slots_ram_bytes=0), **EXACT,
            )  # fmt: skip
            plan = planning.plan(str(path_of("llama")), Machine(devices=(), host=host), wish)
            return SlotLoop(models.enter_context(loaded(plan)))

        projector = write_mmproj(tmp_path / "mmproj.gguf")
        other = tmp_path / "other.gguf"
        data = bytearray(projector.read_bytes())
        data[-10_000:] = bytes(10_000)
        other.write_bytes(data)
        text = "What is there to be seen in this picture, the one here? "
        seen: dict[str, Any] = {"images": (Image(len(text), png(1), "images[0]"),)}
        prompt: Any = text + " Say it."
        before = load(projector)
        first = before.answer(prompt, **seen)
        saved = before.order("save", 0, tmp_path / "seen")
        before.answer(PROMPT, id_slot=1)
        before.order("save", 1, tmp_path / "text")
        after = load(projector)
        assert after.order("restore", 0, tmp_path / "seen").n_tokens == saved.n_tokens
        again = after.answer(prompt, **seen)
        assert again[-1].cached_tokens == first[-1].prompt_tokens - 1
        assert tokens_of(again) == tokens_of(first)
        for engine in (load(other), load(None)):
            refused = engine.order("restore", 0, tmp_path / "seen")
            assert "has not the projector that computed them" in str(refused.error)
            assert engine.order("restore", 0, tmp_path / "text").error is None
