"""Saves, restores and erases slots between the steps of a loop. A thread writes and reads their files."""

import hashlib
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vram_llm.engine import wire
from vram_llm.engine.adapters import Adapters
from vram_llm.engine.kv_cache.numbered_slots import NumberedSlots, SlotPrompt
from vram_llm.engine.kv_cache.offload_store import State
from vram_llm.engine.kv_cache.prefix_cache import PrefixCache
from vram_llm.engine.kv_cache.saved_slots import SavedSlot, SlotFacts, read_slot, write_slot
from vram_llm.engine.slot_order import SlotAction, SlotDone, SlotOrder
from vram_llm.errors import RequestError, VramLLMError
from vram_llm.llama.bindings import SUPPORTED_VERSION, forget_lines, last_errors
from vram_llm.llama.model import LoadedModel
from vram_llm.model.file_identity import change_of, content_digest
from vram_llm.planner.rope import AS_IN_FILE
from vram_llm.planner.types import CompanionKind

log = logging.getLogger(__name__)
_PATIENCE_S = 0.02  # the longest time that an idle engine waits before it looks for messages
ReadSlot = tuple[SavedSlot, State, int]


@dataclass(slots=True, eq=False)
class _Open:
    """An order that is not done. `reading` has the file's slot once it is read."""

    order: SlotOrder
    began: float
    reading: "Future[ReadSlot] | None" = None


class SlotActions:
    """Orders about the numbered slots of a loop, which wait while a request runs in their slot.

    The states in memory are bounded, however many orders wait: one that is written, and one for each slot
    that is restored. `send` gets SlotDone, from any thread, and SlotStates; `post` gets SlotStates that can
    wait for the next message.
    """

    def __init__(
        self,
        model: LoadedModel,
        cache: PrefixCache,
        slots: NumberedSlots,
        send: Callable[[wire.FromEngine], None],
        post: Callable[[wire.FromEngine], None],
    ) -> None:
        self._model = model
        self._cache = cache
        self._slots = slots
        self._send, self._post = send, post
        self.orders: dict[str, _Open] = {}  # that are not done
        self._files = ThreadPoolExecutor(1, "slots")
        self._writing: Future[None] | None = None  # the state that was saved last

    def add(self, order: SlotOrder) -> None:
        """Do `order` as soon as its slot is free."""
        self.orders[order.id] = _Open(order, time.perf_counter())
        self._read_next()

    def cancel(self, order_id: str) -> None:
        """Drop an order that is not done; an unknown id is no error."""
        opened = self.orders.pop(order_id, None)
        if opened is not None and opened.reading is not None:
            opened.reading.cancel()
            self._read_next()

    @property
    def is_due(self) -> bool:
        """Whether one of the orders can be done now."""
        return any(map(self._can_be_done, self.orders.values()))

    def run(self, *, is_idle: bool) -> None:
        """Do the orders that can be done. If `is_idle`, waits a moment for the thread, if it is needed."""
        if is_idle and not self.is_due:
            work: list[Future[Any] | None] = [self._writing, *(each.reading for each in self.orders.values())]
            unfinished = [future for future in work if future is not None and not future.done()]
            wait(unfinished, _PATIENCE_S, "FIRST_COMPLETED")
        for opened in list(self.orders.values()):
            if not self._can_be_done(opened):  # perhaps only since the one before it was done
                continue
            del self.orders[opened.order.id]
            try:
                self._do(opened)
            except VramLLMError as error:
                self._refuse(opened.order, error)
            except MemoryError:
                self._refuse(opened.order, VramLLMError("the host has no memory for the state of this slot"))
        self._read_next()

    def report(self, *, at_once: bool = True) -> None:
        """Send the slots' states if they have changed since the last call; else with the next message."""
        slots = self._slots
        if slots.has_changed:
            slots.has_changed = False
            running = {sequence.id: number for number, sequence in slots.running.items()}
            held = [len(slots.held[i].tokens) if i in slots.held else 0 for i in range(slots.n_slots)]
            (self._send if at_once else self._post)(wire.SlotStates(running, held))

    def _can_be_done(self, opened: _Open) -> bool:
        if opened.order.slot in self._slots.running:
            return False
        match opened.order.action:
            case SlotAction.SAVE:
                return self._writing is None or self._writing.done()
            case SlotAction.RESTORE:
                return opened.reading is not None and opened.reading.done()
            case SlotAction.ERASE:
                return True

    def _read_next(self) -> None:
        """Let the thread read the next file for each slot for which none is read."""
        busy = {each.order.slot for each in self.orders.values() if each.reading is not None}
        for opened in self.orders.values():
            order = opened.order
            if order.action is SlotAction.RESTORE and order.slot not in busy:
                busy.add(order.slot)
                opened.reading = self._files.submit(self._read, order)

    def _do(self, opened: _Open) -> None:
        order = opened.order
        match order.action:
            case SlotAction.SAVE:
                self._save(opened)
            case SlotAction.RESTORE:
                self._restore(opened)
            case SlotAction.ERASE:
                prompt = self._slots.held.get(order.slot)
                if prompt is not None:
                    self._check_own(order, prompt)
                    self._cache.drop_idle(prompt.sequence(order.id))
                    self._slots.hold(order.slot, None)
                    self.report()
                self._send(SlotDone(order.id, len(prompt.tokens) if prompt is not None else 0))

    # -- saving ----------------------------------------------------------------------------------

    def _save(self, opened: _Open) -> None:
        """Copy the state of the slot's prompt, and let the thread write it. Raises RequestError."""
        order, prompt = opened.order, self._slots.held.get(opened.order.slot)
        if prompt is None:
            raise RequestError(f"slot {order.slot} is empty: no prompt has been computed there", "id_slot")
        self._check_own(order, prompt)
        copied = self._cache.copy_state(prompt.sequence(order.id))
        least, n_tokens = self._cache.min_prefix_tokens, len(prompt.tokens)
        if copied is None and (n_tokens < least or not least):
            raise RequestError(
                f"slot {order.slot} had a prompt of {n_tokens:,} tokens, and with --cache-reuse {least} so "
                "few are not kept; serve with --cache-reuse 1 to save short prompts too",
                "id_slot",
            )
        if copied is None:
            raise RequestError(
                f"slot {order.slot} has lost its prompt of {n_tokens:,} tokens to others: prompts are kept "
                "while the KV cache has room, and then within --slots-ram",
                "id_slot",
            )
        state, n_tokens = copied
        kept = replace(prompt, tokens=prompt.tokens[:n_tokens])
        self._writing = self._files.submit(self._write, opened, kept, state)

    def _write(self, opened: _Open, prompt: SlotPrompt, state: State) -> None:
        order, n_tokens = opened.order, len(prompt.tokens)
        try:
            facts = self._facts(prompt.adapters)
            if min(prompt.tokens) >= 0:  # no rows of images
                facts = replace(facts, projector="")
            slot = SavedSlot(facts=facts, owner=order.owner, tokens=prompt.tokens)
            n_bytes = write_slot(Path(order.path), slot, state)
            self._send(SlotDone(order.id, n_tokens, n_bytes, time.perf_counter() - opened.began))
        except VramLLMError as error:
            self._refuse(order, error)
        except Exception as error:  # the client waits for an answer
            log.exception("A slot could not be saved")
            self._refuse(order, VramLLMError(f"the slot could not be saved: {error!r}"))

    # -- restoring -------------------------------------------------------------------------------

    def _read(self, order: SlotOrder) -> ReadSlot:
        """A file's slot, state and size. Raises VramLLMError, MemoryError."""
        try:
            slot, state, n_bytes = read_slot(Path(order.path), order.owner)
            here = self._facts(None)
        except (VramLLMError, MemoryError):
            raise
        except Exception as error:  # the client waits for an answer
            log.exception("A slot could not be read")
            raise VramLLMError(f"the slot could not be read: {error!r}") from None
        if (why := slot.facts.mismatch(here)) is not None:
            raise RequestError(f"'{Path(order.path).name}' cannot be restored: {why}", "filename")
        return slot, state, n_bytes

    def _restore(self, opened: _Open) -> None:
        """Put the state into the KV cache, for later requests. Raises VramLLMError, MemoryError."""
        assert opened.reading is not None
        slot, state, n_bytes = opened.reading.result()
        order, name = opened.order, Path(opened.order.path).name
        adapters = self._adapters(slot.facts.adapters, name)
        n_tokens = len(slot.tokens)
        if n_tokens >= self._model.n_ctx_seq:
            raise RequestError(
                f"'{name}' has {n_tokens:,} tokens, and a sequence may have {self._model.n_ctx_seq:,} here; "
                "serve with a larger --n-ctx",
                "filename",
            )
        if n_tokens < self._cache.min_prefix_tokens or not self._cache.min_prefix_tokens:
            raise RequestError(
                f"'{name}' has {n_tokens:,} tokens, and with --cache-reuse {self._cache.min_prefix_tokens} "
                "so few are not reused",
                "filename",
            )
        prompt = SlotPrompt(slot.tokens, adapters, order.namespace, order.owner)
        forget_lines()
        if not self._cache.take_state(prompt.sequence(order.id), state):
            why = last_errors() or "the KV cache has no room for it now"
            raise RequestError(f"'{name}' cannot be restored: {why}", "filename")
        self._slots.hold(order.slot, prompt)
        self.report()
        self._send(SlotDone(order.id, n_tokens, n_bytes, time.perf_counter() - opened.began))

    # -- facts -----------------------------------------------------------------------------------

    def _facts(self, adapters: Adapters | None) -> SlotFacts:
        """The facts of a prompt that these adapters computed. Raises RequestError. Reads files."""
        plan = self._model.plan
        for file in plan.files:
            if (change := change_of(file)) is not None:
                raise RequestError(f"{change}; slots are saved and restored again once it is loaded anew")
        model_digest, of_adapters, projector = self._digests
        used = self._model.planned_adapters if adapters is None else adapters
        return SlotFacts(
            library=SUPPORTED_VERSION,
            model=Path(plan.model.path).name,
            model_digest=model_digest,
            kv_types=(plan.context.kv_type_k, plan.context.kv_type_v),
            n_caches=plan.context.n_caches,
            swa_full=plan.context.swa_full,
            adapters=tuple((of_adapters[i], scale) for i, scale in used),
            projector=projector,
            changes=self._changes,
        )

    @cached_property
    def _digests(self) -> tuple[str, tuple[str, ...], str]:
        """Hashes of the model's shards, of each adapter, and of the projector. Raises RequestError."""
        plan = self._model.plan
        shards = [file.path for file in plan.model.files] or [plan.model.path]
        loras = [each for each in plan.companions if each.kind is CompanionKind.LORA]
        try:
            model = "-".join(content_digest(Path(path)) for path in shards)
            adapters = tuple(content_digest(Path(lora.path)) for lora in loras)
            projectors = (each.path for each in plan.companions if each.kind is CompanionKind.MMPROJ)
            return model, adapters, "-".join(content_digest(Path(path)) for path in projectors)
        except OSError as error:
            raise RequestError(f"the model's file cannot be read any more: {error.strerror}") from None

    @cached_property
    def _changes(self) -> str:
        """SlotFacts.changes. Raises RequestError."""
        plan = self._model.plan
        vectors = [each for each in plan.companions if each.kind is CompanionKind.CONTROL_VECTOR]
        try:
            hashes = [(content_digest(Path(each.path)), each.scale, each.layer_range) for each in vectors]
        except OSError as error:
            raise RequestError(f"a control vector cannot be read any more: {error.strerror}") from None
        parts = [*map(str, hashes), *map(str, plan.model.kv_overrides)]
        if plan.context.rope != AS_IN_FILE:
            parts.append(str(plan.context.rope))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest() if parts else ""

    def _adapters(self, wanted: Iterable[tuple[str, float]], name: str) -> Adapters | None:
        """The adapters of these hashes and scales; None: as planned. Raises RequestError."""
        loaded = self._digests[1]
        if any(digest not in loaded for digest, _ in wanted):
            raise RequestError(
                f"'{name}' cannot be restored: it was computed with a LoRA adapter that is not loaded here",
                "filename",
            )
        adapters = tuple(sorted((loaded.index(digest), scale) for digest, scale in wanted))
        return None if adapters == self._model.planned_adapters else adapters

    @staticmethod
    def _check_own(order: SlotOrder, prompt: SlotPrompt) -> None:
        if order.owner not in ("", prompt.client):
            raise RequestError(f"slot {order.slot} holds the prompt of another API key", "id_slot")

    def _refuse(self, order: SlotOrder, error: VramLLMError) -> None:
        param = error.param or "id_slot" if isinstance(error, RequestError) else None
        self._send(SlotDone(order.id, error=str(error), error_param=param))
