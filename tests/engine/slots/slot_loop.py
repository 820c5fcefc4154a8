"""A loop for the tests of slot actions, and prompts for it."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.engine.harness import make_request, run, turns
from tests.patience import PATIENCE_S
from vram_llm.engine import wire
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import TokenEvent
from vram_llm.engine.slot_order import SlotAction, SlotDone, SlotOrder
from vram_llm.llama.model import LoadedModel

KINDS = ["llama", "nemotron_h", "gemma3"]  # full attention, recurrent layers, a sliding window
NewLoop = Callable[..., "SlotLoop"]


class SlotLoop(Loop):
    """A loop that keeps what it sends, and counts the messages that could wait for the next."""

    def __init__(self, model: LoadedModel) -> None:
        self.sent: list[wire.FromEngine] = []
        self.n_posted = 0
        self.answered = threading.Event()
        super().__init__(model, None, self._keep, self._post)

    def _post(self, message: wire.FromEngine) -> None:
        self.n_posted += 1
        self._keep(message)

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
        assert self.answered.wait(PATIENCE_S)
        return next(each for each in reversed(self.sent) if isinstance(each, SlotDone))

    def answer(self, prompt: tuple[int, ...], **options: Any) -> list[TokenEvent]:
        """A request of eight tokens."""
        return run(self, make_request("r", prompt, **{"max_tokens": 8, **options}))["r"]

    @property
    def states(self) -> wire.SlotStates:
        """The slots as they were sent last."""
        return next(each for each in reversed(self.sent) if isinstance(each, wire.SlotStates))


def words(seed: int, n: int) -> tuple[int, ...]:
    """Tokens of a prompt, others for each seed."""
    return tuple(map(int, np.random.default_rng(seed).integers(3, 320, n)))


PROMPT = words(1, 300)
