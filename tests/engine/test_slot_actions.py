"""Slots in files: saved, restored in another engine, erased; on models of three kinds of memory."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.companions import write_mmproj
from tests.conftest import PlanOnCpu
from tests.engine.harness import EXACT, loaded, make_request, run, tokens_of, turns, write_f32
from tests.pictures import png
from vram_llm.engine import slot_actions, wire
from vram_llm.engine.kv_cache import saved_slots
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import Image, TokenEvent
from vram_llm.engine.slot_order import SlotAction, SlotDone, SlotOrder
from vram_llm.llama.model import LoadedModel
from vram_llm.machine.types import Host, Machine
from vram_llm.planner.rope import Rope
from vram_llm.planner.types import Plan, Serving, Workload
from vram_llm.units import MIB
from vram_llm.workflows import planning

KINDS = ["llama", "nemotron_h", "gemma3"]  # full attention, recurrent layers, a sliding window
NewLoop = Callable[..., "SlotLoop"]


class SlotLoop(Loop):
    """A loop that keeps what it sends."""

    def __init__(self, model: LoadedModel) -> None:
        self.sent: list[wire.FromEngine] = []
        self.answered = threading.Event()
        super().__init__(model, None, self._keep)

    def _keep(self, message: wire.FromEngine) -> None:
        self.sent.append(message)
        if isinstance(message, SlotDone):
            self.answered.set()

    def order(self, action: str, slot: int = 0, path: Path | str = "", **more: Any) -> SlotDone:
        """The answer to an order, once the loop is idle and the file is written."""
        self.answered.clear()
        order = SlotOrder(id="order", action=SlotAction(action), slot=slot, path=str(path), **more)
        self.slot_actions.add(order)
        for _ in turns(self):
            pass
        assert self.answered.wait(60)
        return next(each for each in reversed(self.sent) if isinstance(each, SlotDone))

    def answer(self, prompt: tuple[int, ...], **options: Any) -> list[TokenEvent]:
        """A request of eight tokens."""
        return run(self, make_request("r", prompt, **{"max_tokens": 8, **options}))["r"]

    @property
    def states(self) -> wire.SlotStates:
        """The slots as they were sent last."""
        return next(each for each in reversed(self.sent) if isinstance(each, wire.SlotStates))


def words(seed: int, n: int) -> tuple[int, ...]:
    return tuple(map(int, np.random.default_rng(seed).integers(3, 320, n)))


PROMPT = words(1, 300)


@pytest.fixture(scope="module")
def path_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("slots")

    def path_of(kind: str) -> Path:
        path = folder / f"{kind}.gguf"
        return path if path.exists() else write_f32(path, kind)

    return path_of


@pytest.fixture
def new_loop(plan_on_cpu: PlanOnCpu, path_of: Callable[[str], Path]) -> Iterator[NewLoop]:
    """Loads a model of a kind into a new loop; the options are the plan's."""
    with ExitStack() as models:

        def new_loop(kind: str = "llama", **options: Any) -> SlotLoop:
            plan: Plan = plan_on_cpu(
                options.pop("path", None) or path_of(kind),
                **{
                    "n_ctx": 2048, "parallel": 2, "n_batch": 128, "n_ubatch": 64,
                    "serving": Serving(slots_ram_bytes=64 * MIB), **EXACT, **options,
                },
            )  # fmt: skip
            return SlotLoop(models.enter_context(loaded(plan)))

        yield new_loop


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
        assert disk_is_free.wait(60)
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
    waiting = loop.slot_actions._open
    assert [name for name in waiting if name.startswith("save")] == ["save1", "save2", "save3"]
    assert [name for name, each in waiting.items() if each.reading is not None] == ["restore0"]
    loop.slot_actions.cancel("restore0")
    disk_is_free.set()
    for _ in steps:
        pass
    assert loop.slot_actions._writing is not None
    loop.slot_actions._writing.result(60)
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
            wait([each.reading for each in loop.slot_actions._open.values() if each.reading is not None])
        events += next(steps)
        assert loop.answered.wait(60)
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


# -- refusals ------------------------------------------------------------------------------------


def test_an_empty_slot_is_not_saved(new_loop: NewLoop, tmp_path: Path) -> None:
    loop = new_loop()
    assert "slot 1 is empty" in str(loop.order("save", 1, tmp_path / "a").error)
    loop.answer(words(5, 10), max_tokens=2)
    assert "has lost its prompt of 11 tokens" in str(loop.order("save", 0, tmp_path / "a").error)
    assert list(tmp_path.iterdir()) == []


def test_other_models_and_caches_are_refused(
    new_loop: NewLoop, tmp_path: Path, path_of: Callable[[str], Path]
) -> None:
    file = tmp_path / "a"
    loop = new_loop()
    loop.answer(PROMPT)
    loop.order("save", 0, file)
    other = tmp_path / "other" / "llama.gguf"  # the same header and size
    other.parent.mkdir()
    data = bytearray(path_of("llama").read_bytes())
    data[-100_000:] = bytes(100_000)
    other.write_bytes(data)
    cases = {
        "saved from another file of llama.gguf": new_loop(path=other),
        "saved from llama.gguf, and this server has gemma3.gguf": new_loop("gemma3"),
        "saved with other positions, metadata or control vectors": new_loop(rope=Rope(freq_scale=0.5)),
        "its KV cache is f32/f32, and this server's is f16/f16": new_loop(kv_type_k="f16", kv_type_v="f16"),
        "arranged in another way": new_loop(kv_unified=False),
        "has 307 tokens, and a sequence may have 256": new_loop(n_ctx=256),
        "so few are not reused": new_loop(serving=Serving(cache_reuse=400, slots_ram_bytes=0)),
    }
    for why, engine in cases.items():
        done = engine.order("restore", 0, file)
        assert why in str(done.error), done
        assert (done.error_param, engine.states.held if engine.sent[:-1] else [0, 0]) == ("filename", [0, 0])


def test_files_that_are_damaged_or_foreign(new_loop: NewLoop, tmp_path: Path) -> None:
    loop, file = new_loop(), tmp_path / "a"
    loop.answer(PROMPT)
    loop.order("save", 0, file)
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    cases = {
        "it has 5 bytes less": (whole[:-5], "is damaged: it has"),
        "cut in its facts": (whole[:60], "its first part is not complete"),
        "flipped": (bytes(flipped), "its bytes are not those that were saved"),
        "foreign": (b"GGUF" + whole, "is not a saved slot"),
        "empty": (b"", "is not a saved slot"),
        "version": (whole[:8] + b"\x02" + whole[9:], "has version 2"),
    }
    for data, why in cases.values():
        file.write_bytes(data)
        done = loop.order("restore", 0, file)
        assert why in str(done.error), (why, done)
    file.unlink()
    assert "there is no file 'a'" in str(loop.order("restore", 0, file).error)
    file.symlink_to("/etc/hostname")
    assert "link" in str(loop.order("restore", 0, file).error)
    file.unlink()
    file.write_text("somebody's notes")
    assert "is not a saved slot" in str(loop.order("save", 0, file).error)
    assert file.read_text() == "somebody's notes"
    file.write_bytes(whole[:60])  # one that was cut may be replaced
    assert loop.order("save", 0, file).error is None
    assert loop.order("restore", 1, file).error is None


def test_another_version_of_the_library(new_loop: NewLoop, tmp_path: Path) -> None:
    loop, file = new_loop(), tmp_path / "a"
    loop.answer(PROMPT)
    loop.order("save", 0, file)
    slot, state, _ = saved_slots.read_slot(file, "")
    data = file.read_bytes().replace(slot.facts.library.encode(), b"0.3.99", 1)
    file.write_bytes(data)
    assert "saved by llama-cpp-python 0.3.99" in str(loop.order("restore", 0, file).error)
    assert json.loads(data[20 : len(data) - state.nbytes])["tokens"] == slot.tokens


def test_a_full_disk(new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loop = new_loop()
    loop.answer(PROMPT)

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    done = loop.order("save", 0, tmp_path / "a")
    assert (done.error, done.error_param) == ("the slot could not be saved as 'a': the disk is full", None)
    assert list(tmp_path.iterdir()) == []
    gone = loop.order("save", 0, tmp_path / "none" / ".." / "none" / "x")
    assert gone.error is not None


def test_slots_and_files_of_other_keys(new_loop: NewLoop, tmp_path: Path) -> None:
    loop, file = new_loop(), tmp_path / "a"
    mine: dict[str, Any] = {"owner": "ann", "namespace": 7}
    other: dict[str, Any] = {"owner": "bob", "namespace": 8}
    loop.answer(PROMPT, namespace=7, client="ann")
    assert "another API key" in str(loop.order("save", 0, file, **other).error)
    assert "another API key" in str(loop.order("erase", 0, **other).error)
    assert loop.order("save", 0, file, **mine).error is None
    assert "saved with another API key" in str(loop.order("restore", 0, file, **other).error)
    loop.answer(words(6, 300), namespace=8, client="bob")
    assert "saved with another API key" in str(loop.order("save", 1, file, **other).error)
    loop.order("erase", 0, **mine)
    assert loop.order("restore", 0, file, owner="ann", namespace=9).error is None  # after a restart
    assert loop.order("save", 0, tmp_path / "b", **mine).error is None
    assert loop.answer(PROMPT, namespace=8)[-1].cached_tokens == 0
    assert loop.answer(PROMPT, namespace=9)[-1].cached_tokens == len(PROMPT) - 1
