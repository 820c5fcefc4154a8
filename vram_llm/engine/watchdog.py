"""When an engine hangs. Policy alone: looks at its pulse come from the caller.

An engine that neither beats nor works is stopped, or waits for a worker, a card or a disk that is silent.
On a busy machine an engine still works now and then. One that works without a beat computes, but a step that
takes many times its limit has no end.
"""

import math

from vram_llm.engine.heartbeat import Pulse
from vram_llm.planner.types import SpeedEstimate

LOAD_LIMIT_S = 60.0  # without any work: tensors are sent and read piece by piece
_LEAST_LIMIT_S = 10.0
_FACTOR = 20  # of the predicted time: speeds may be assumed, and the machine busy
_BUSY_FACTOR = 10  # of the limit, for an engine that works
_LEAST_WORK = 10  # of Pulse.work; the memory guard and other threads of an engine that waits need less
_UNKNOWN_STEP_S, _UNKNOWN_ROW_S = 3.0, 0.05  # of a plan without predictions
_LOOKS = 20  # in a limit
_MOST_LOOK_S = 0.5


class Watchdog:
    """Decides from looks at one process. `limit_s` None: `step_limit_s`; infinite: it never hangs.

    A hang is found within the limit, thus up to two looks early: it may have begun just after a look.
    """

    def __init__(self, speed: SpeedEstimate | None, limit_s: float | None = None) -> None:
        self._speed, self._limit_s = speed, limit_s
        self.look_every_s = min(_MOST_LOOK_S, (limit_s or _LEAST_LIMIT_S) / _LOOKS)
        self._last: Pulse | None = None
        self._looked_at_s = 0.0
        self._work = 0  # when it last beat, or had worked
        self._still_s = self._silent_s = 0.0  # without beat and work; without beat

    def look(self, pulse: Pulse, now_s: float, *, is_loading: bool = False) -> str | None:
        """Why the engine counts as hanging; None as long as it does not.

        Time counts only while the looks go on: the server may have been stopped as well.
        """
        passed_s = min(now_s - self._looked_at_s, 2 * self.look_every_s)
        last, self._last, self._looked_at_s = self._last, pulse, now_s
        if last is None or pulse.n_beats != last.n_beats:
            self._still_s, self._silent_s, self._work = 0.0, 0.0, pulse.work
            return None
        self._silent_s += passed_s
        self._still_s += passed_s
        if pulse.work - self._work >= _LEAST_WORK:
            self._still_s, self._work = 0.0, pulse.work
        limit_s = self._limit_of(pulse.n_rows, is_loading=is_loading)
        ahead_s = 2 * self.look_every_s
        doing = f"in a batch of {pulse.n_rows} tokens" if pulse.n_rows else "between two steps"
        where = "while it loaded" if is_loading else doing
        if self._still_s + ahead_s >= limit_s:
            return f"the engine hung {where}: it did nothing for {self._still_s:.1f} s"
        if self._silent_s + ahead_s >= _BUSY_FACTOR * limit_s:
            return f"the engine hung {where}, which took longer than {self._silent_s:.1f} s"
        return None

    def _limit_of(self, n_rows: int, *, is_loading: bool) -> float:
        limit_s = step_limit_s(self._speed, n_rows) if self._limit_s is None else self._limit_s
        return max(limit_s, LOAD_LIMIT_S) if is_loading else limit_s


def step_limit_s(speed: SpeedEstimate | None, n_rows: int) -> float:
    """The longest time without any work in a batch of `n_rows` tokens; 0: between two steps."""
    step_s, row_s = _UNKNOWN_STEP_S, _UNKNOWN_ROW_S
    if speed is not None:
        step_s = row_s = speed.step_s
        if speed.prompt_tokens_per_s:
            row_s = 1 / speed.prompt_tokens_per_s
    predicted_s = step_s + n_rows * row_s if n_rows else 0.0
    return max(_LEAST_LIMIT_S, _FACTOR * predicted_s)


def is_on(limit_s: float | None) -> bool:
    """Whether an engine is watched."""
    return limit_s is None or math.isfinite(limit_s)
