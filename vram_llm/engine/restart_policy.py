"""When a dead engine is started again. Policy alone: times come from the caller, in seconds.

An engine that dies while it loads, after an earlier one has loaded, has a cause from outside: a worker, a
file, a disk or memory is away. It is tried for ever. Deaths while serving have a budget, unless the end of a
worker is their cause.
"""

import signal
from collections import deque
from dataclasses import dataclass, field

MAX_CRASHES = 5  # while serving, within CRASH_WINDOW_S; one more ends the server of one model
CRASH_WINDOW_S = 600.0
CALM_S = 60.0  # of serving, after which the delays begin anew
MAX_KERNEL_CRASHES = 2  # then loads use no extra buffer types
_KERNEL_SIGNALS = (signal.SIGILL, signal.SIGSEGV)
_MOST_DELAY_S = 30.0
_GROWTH = 2**0.5  # of each delay over the one before
_FIRST_DELAY_S = 0.5  # of the second attempt; the first has none
_WORKER_LOST = "ggml-rpc.cpp"  # in the reason of an engine that llama.cpp's RPC client has ended


@dataclass(slots=True)
class RestartPolicy:
    """Counts deaths. `n_attempts` starts in a row have no calm between them.

    `max_crashes` is the budget; None: there is none, as where other models are served on.
    """

    max_crashes: int | None = MAX_CRASHES
    n_attempts: int = 0
    extra_buffers: bool = True  # whether loads may repack the processor's weights for other kernels
    _crashes: deque[float] = field(default_factory=deque)
    _n_kernel_crashes: int = 0

    def note_signal(self, number: int) -> bool:
        """The engine ended by this signal; 0 or below: by none. Returns whether `extra_buffers` changed."""
        self._n_kernel_crashes += number in _KERNEL_SIGNALS
        changes = self.extra_buffers and self._n_kernel_crashes >= MAX_KERNEL_CRASHES
        self.extra_buffers = self.extra_buffers and not changes
        return changes

    def note_death(self, reason: str, now_s: float, *, served_s: float | None) -> None:
        """The engine died of `reason` after it served for `served_s`; None: while it loaded."""
        if served_s is not None and served_s >= CALM_S:
            self.n_attempts = 0
        self.n_attempts += 1
        if served_s is not None and _WORKER_LOST not in reason:
            self._crashes.append(now_s)
        while self._crashes and now_s - self._crashes[0] > CRASH_WINDOW_S:
            self._crashes.popleft()

    @property
    def n_crashes(self) -> int:
        """Deaths while serving that count, within CRASH_WINDOW_S of the last death."""
        return len(self._crashes)

    @property
    def is_spent(self) -> bool:
        """True if the engine is not started again."""
        return self.max_crashes is not None and len(self._crashes) > self.max_crashes

    @property
    def delay_s(self) -> float:
        """The wait before the next start, which grows with the time since the death."""
        if self.n_attempts <= 1:
            return 0.0
        return min(_FIRST_DELAY_S * _GROWTH ** min(self.n_attempts - 2, 32), _MOST_DELAY_S)
