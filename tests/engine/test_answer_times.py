"""The predicted end of answers, against a simulated engine; no clock of this machine."""

import random
from dataclasses import dataclass, field

import pytest

from vram_llm.engine.answer_times import AnswerTimes

PARALLEL = 4


@dataclass
class _Simulation:
    """Requests of random lengths, for which tokens take random times, and a queue that stays full."""

    random: random.Random
    stops_early: bool  # answers use part of their limit
    times: AnswerTimes = field(default_factory=lambda: AnswerTimes(PARALLEL))
    now: float = 50.0
    n: int = 0
    waiting: list[str] = field(default_factory=list)
    running: dict[str, list[float]] = field(default_factory=dict)  # [time of the next token, tokens left]
    ended_at: list[float] = field(default_factory=list)

    def submit(self) -> None:
        name = f"{self.n}"
        self.n += 1
        self.times.begin(name, "c", 100, self.now)
        self.waiting.append(name)
        self.times.note_waiting(self.waiting, self.now)

    def fill(self) -> None:
        while self.waiting and len(self.running) < PARALLEL:
            n_tokens = self.random.randint(20, 40) if self.stops_early else 100
            self.running[self.waiting.pop(0)] = [self.now + self.random.uniform(0.4, 0.8), n_tokens]
        self.times.note_waiting(self.waiting, self.now)

    def step(self) -> None:
        """Until the next token."""
        name = min(self.running, key=lambda name: self.running[name][0])
        self.now, left = self.running[name]
        self.times.note_tokens(name, 1, self.now)
        if left > 1:
            self.running[name] = [self.now + self.random.uniform(0.03, 0.08), left - 1]
            return
        del self.running[name]
        self.times.end(name, self.now, is_whole=True)
        self.ended_at.append(self.now)
        self.fill()


@pytest.mark.parametrize(
    ("n", "stops_early", "share"),
    [(1, False, 0.95), (3, False, 0.95), (10, False, 0.95), (10, True, 0.95), (3, True, 0.8)],
)
def test_predictions_come_true(n: int, stops_early: bool, share: float) -> None:
    """`share` of them to within 50 %: which of a few answers stops first is chance."""
    simulation = _Simulation(random.Random(5), stops_early)
    for _ in range(40):
        simulation.submit()
    simulation.fill()
    asked: list[tuple[float, float, int]] = []  # when, the prediction, answers that had ended
    while len(simulation.ended_at) < 60:
        simulation.step()
        if len(simulation.waiting) + len(simulation.running) < 40:
            simulation.submit()
        n_ended = len(simulation.ended_at)
        if n_ended > 8 and simulation.random.random() < 0.05:
            predicted = simulation.times.seconds_until_done(n, simulation.now)
            assert predicted is not None
            asked.append((simulation.now, predicted, n_ended))
    ratios = sorted(
        predicted / (ends[n_ended + n - 1] - at)
        for ends in [simulation.ended_at]
        for at, predicted, n_ended in asked
        if n_ended + n - 1 < len(ends) and ends[n_ended + n - 1] - at > 0.5
    )
    assert len(ratios) > 50
    within = sum(0.5 <= ratio <= 1.5 for ratio in ratios) / len(ratios)
    assert within >= share, ratios
    assert 0.75 < ratios[len(ratios) // 2] < 1.25


def test_of_one_client() -> None:
    times = AnswerTimes(2)
    for name, client, limit in (("a", "ann", 10), ("b", "bob", 20), ("c", "ann", 10)):
        times.begin(name, client, limit, 0.0)
    times.note_waiting(["c"], 0.0)
    assert [times.n_of(client) for client in ("ann", "bob", "eve")] == [2, 1, 0]
    assert (times.n_clients("ann"), times.n_clients("eve")) == (2, 3)
    for at in range(1, 6):
        times.note_tokens("a", 1, float(at))
        times.note_tokens("b", 1, float(at))
    assert times.seconds_until_done(1, 5.0, "ann") == pytest.approx(5)
    assert times.seconds_until_done(1, 5.0, "bob") == pytest.approx(15)
    assert times.seconds_until_done(2, 5.0) == pytest.approx(6)  # one that waits; nothing has ended yet
    times.end("a", 5.0, is_whole=False)
    times.end("c", 5.0, is_whole=False)
    assert times.n_of("ann") == 0
    assert times.seconds_until_done(1, 5.0, "ann") is None
