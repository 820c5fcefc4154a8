"""Requests that are submitted to the next engine after a death, their order, and those refused."""

from typing import Any

import pytest

from vram_llm.engine import wire
from vram_llm.engine.in_flight import HandedOver, RequestsInFlight
from vram_llm.engine.request import EmbeddingRequest, FinishReason, Request, SamplingParams, TokenEvent
from vram_llm.errors import AnswerCutOff, EngineDied, PoisonRequest, RequestCancelled, RequestTimeout

FAILURE = EngineDied("signal 9")
DRAWN = SamplingParams()


class Recorder:
    """Requests in flight, the messages sent, and the results of each request."""

    def __init__(self, *names: str) -> None:
        self.sent: list[Any] = []
        self.got: dict[str, list[Any]] = {}
        self.requests = RequestsInFlight(self.sent.append)
        self.requests.note_ready()
        self.add(*names)

    def add(self, *names: str, n_deaths: int = 0, **options: Any) -> None:
        for name in names:
            self.got[name] = []
            request = Request(id=name, prompt="p", **options)
            self.requests.add(wire.Submit(request), self.got[name].append, n_deaths)

    def token(self, name: str, token: int = 7, ending: FinishReason | None = None) -> None:
        self.requests.deliver(TokenEvent(id=name, token_ids=(token,), finish_reason=ending))

    def die(self) -> None:
        self.requests.note_death(FAILURE)
        self.sent.clear()

    def restart(self) -> None:
        self.requests.note_ready()

    @property
    def names(self) -> list[str]:
        """The requests sent since the last death."""
        return [message.id for message in self.sent]


def test_requests_are_sent_at_once_while_an_engine_runs() -> None:
    assert Recorder("a", "b").names == ["a", "b"]


def test_new_requests_wait_for_the_restart() -> None:
    recorder = Recorder("a")
    recorder.die()
    recorder.add("new")
    assert recorder.names == []
    recorder.requests.waiting = frozenset()
    recorder.restart()
    recorder.token("a")
    assert recorder.names == ["a", "new"]


def test_the_ones_that_waited_follow_together() -> None:
    recorder = Recorder("a", "b", "c", "d")
    recorder.requests.waiting = frozenset({"b", "d"})
    recorder.die()
    recorder.restart()
    assert recorder.names == ["a"]
    recorder.token("a")
    assert recorder.names == ["a", "c"]
    recorder.token("c")
    assert recorder.names == ["a", "c", "b", "d"]


@pytest.mark.parametrize("how", ["a last event", "a cancel", "a progress event"])
def test_how_a_trial_ends(how: str) -> None:
    recorder = Recorder("a", "b")
    recorder.die()
    recorder.restart()
    if how == "a last event":
        recorder.requests.deliver(TokenEvent(id="a", finish_reason=FinishReason.ERROR))
    elif how == "a cancel":
        recorder.requests.drop("a")
    else:
        recorder.requests.deliver(TokenEvent(id="a", prompt_done=3))  # no sign that it is past the place
    assert ("b" in recorder.names) == (how != "a progress event")


def test_a_request_that_an_engine_dies_of_alone_is_refused_and_no_other() -> None:
    recorder = Recorder("a", "poison", "c")
    recorder.die()
    recorder.restart()
    recorder.token("a")  # a new token: "a" did not kill the engine, so "poison" is tried next
    assert recorder.names == ["a", "poison"]
    recorder.die()
    (error,) = recorder.got["poison"]
    assert isinstance(error, PoisonRequest)
    assert (recorder.got["c"], len(recorder.requests)) == ([], 1)
    assert isinstance(recorder.got["a"][-1], EngineDied)  # it had begun, and has no seed
    recorder.restart()
    assert recorder.names == ["c"]


def test_two_deaths_without_a_trial_are_too_many_as_well() -> None:
    recorder = Recorder()
    recorder.add("a", whole=True)
    for _ in range(2):
        recorder.token("a")
        recorder.die()
        recorder.restart()
    assert isinstance(recorder.got["a"][-1], PoisonRequest)


def test_a_request_that_comes_after_the_end_of_the_engine_is_no_cause_of_its_death() -> None:
    recorder = Recorder("a", "b")
    recorder.requests.note_end()
    recorder.add("new")
    recorder.die()
    recorder.restart()
    recorder.token("a")
    recorder.token("b")
    assert recorder.names == ["a", "b", "new"]
    recorder.die()
    assert recorder.got["new"] == []
    recorder.restart()
    recorder.die()
    assert isinstance(recorder.got["new"][0], PoisonRequest)  # after two deaths, not three


def test_waiting_through_many_deaths_is_no_fault() -> None:
    recorder = Recorder("a")
    for _ in range(5):
        recorder.requests.waiting = frozenset({"a"})
        recorder.die()
        recorder.restart()
    recorder.token("a", ending=FinishReason.STOP)
    assert len(recorder.got["a"]) == 1
    assert not recorder.requests


@pytest.mark.parametrize(
    ("options", "continues"),
    [
        ({"sampling": DRAWN}, False),
        ({"sampling": DRAWN, "whole": True}, True),
        ({"sampling": SamplingParams(temperature=0)}, True),
        ({"sampling": SamplingParams(seed=3)}, True),
        ({"sampling": SamplingParams(seed=3, mirostat=2)}, False),
        ({"sampling": SamplingParams(seed=3, xtc_probability=0.5)}, False),
    ],
)
def test_which_answers_that_have_begun_are_continued(options: dict[str, Any], continues: bool) -> None:
    recorder = Recorder()
    recorder.add("a", **options, reports_progress=True)
    recorder.token("a", 7)
    recorder.token("a", 9)
    recorder.die()
    recorder.restart()
    if continues:
        (message,) = recorder.sent
        assert (message.request.written, message.request.reports_progress) == ((7, 9), False)
    else:
        assert isinstance(recorder.got["a"][-1], EngineDied)
        assert recorder.sent == []


@pytest.mark.parametrize("when", ["ended", "died", "restarted"])
def test_an_answer_whose_time_is_over_keeps_the_tokens_of_a_dead_engine(when: str) -> None:
    recorder = Recorder()
    recorder.add("a", whole=True)
    recorder.add("new")
    recorder.requests.deliver(TokenEvent(id="a", token_ids=(7,), prompt_tokens=5, cached_tokens=3))
    recorder.token("a")
    recorder.requests.note_end()
    if when != "ended":
        recorder.die()
    if when == "restarted":
        recorder.restart()
        assert recorder.requests.finish("a")
        late = TokenEvent(id="a", finish_reason=FinishReason.ERROR, error_code=RequestTimeout.code, error="")
        recorder.requests.deliver(late)
    else:
        assert not recorder.requests.finish("new")
        assert recorder.requests.finish("a")
    last = recorder.got["a"][-1]
    assert (last.finish_reason, last.error) == (FinishReason.LENGTH, None)
    assert (last.prompt_tokens, last.cached_tokens, last.completion_tokens) == (5, 3, 2)
    recorder.restart()
    assert [name for name in recorder.names if name == "new"]
    assert not recorder.requests.finish("a")


def test_a_finished_request_is_not_sent_again() -> None:
    recorder = Recorder("a")
    recorder.token("a", ending=FinishReason.STOP)
    recorder.die()
    recorder.restart()
    assert recorder.sent == []


def test_a_cancel_goes_only_to_an_engine_that_has_the_request() -> None:
    recorder = Recorder("a", "b")
    recorder.requests.drop("b")
    assert recorder.sent[-1] == wire.Cancel("b")
    recorder.die()
    recorder.requests.drop("a")
    recorder.restart()
    assert recorder.sent == []


def test_questions_are_asked_again() -> None:
    recorder, got = Recorder(), list[Any]()
    recorder.requests.add(wire.Embed(EmbeddingRequest(id="e", inputs=("x",))), got.append)
    recorder.requests.add(wire.Tokenize("t", "x", True, True), got.append)
    recorder.die()
    recorder.restart()
    recorder.requests.answer(wire.Embedded("e"))
    recorder.requests.answer(wire.Tokens("t", [1]))
    assert recorder.names == ["e", "t"]
    assert [answer.id for answer in got] == ["e", "t"]


def test_requests_are_cancelled_by_their_owner() -> None:
    recorder = Recorder()
    recorder.add("chat-a-0", "chat-a-1", "chat-ab-0", client="ann")
    for name, client in (("chat-a", "bob"), ("chat", None), ("nothing", None), ("chat-", None), ("", None)):
        assert not recorder.requests.cancel(name, client), name
    assert recorder.requests.cancel("chat-a", "ann")
    assert [type(recorder.got[name][0]) for name in ("chat-a-0", "chat-a-1")] == [RequestCancelled] * 2
    assert recorder.got["chat-ab-0"] == []
    assert recorder.sent[-2:] == [wire.Cancel("chat-a-0"), wire.Cancel("chat-a-1")]
    assert recorder.requests.cancel("chat-ab-0", None)
    assert len(recorder.requests) == 0


# -- other engines of the model ------------------------------------------------------------------


def test_a_death_hands_requests_over_where_others_take_them() -> None:
    recorder = Recorder("a", "waits", "drawn")
    recorder.add("whole", whole=True)
    recorder.requests.waiting = frozenset({"waits"})
    recorder.token("drawn")
    recorder.token("whole", 7)
    recorder.requests.hands_over = lambda: True
    recorder.die()
    ends = {name: got[-1] for name, got in recorder.got.items()}
    assert [type(end) for end in ends.values()] == [HandedOver, HandedOver, AnswerCutOff, HandedOver]
    assert [(ends[i].written, ends[i].n_deaths) for i in ("a", "waits", "whole")] == [
        ((), 1),
        ((), 0),
        ((7,), 1),
    ]
    assert len(recorder.requests) == 0
    recorder.restart()
    assert recorder.sent == []


def test_a_request_that_an_engine_died_of_is_on_trial_elsewhere_and_holds_nobody_up() -> None:
    recorder = Recorder("own")
    recorder.add("suspect", "other suspect", n_deaths=1)
    recorder.add("new")
    assert recorder.names == ["own", "suspect", "new"]
    recorder.die()
    assert isinstance(recorder.got["suspect"][0], PoisonRequest)
    assert [recorder.got[name] for name in ("own", "other suspect", "new")] == [[], [], []]
    recorder.restart()
    assert recorder.names == ["other suspect"]
    recorder.token("other suspect")
    assert recorder.names == ["other suspect", "own", "new"]


def test_an_answer_goes_on_over_several_engines() -> None:
    recorder = Recorder()
    recorder.add("a", whole=True, written=(5, 6))
    recorder.token("a", 7)
    recorder.die()
    recorder.restart()
    assert recorder.sent[0].request.written == (5, 6, 7)
    assert recorder.requests.finish("a")
    recorder.requests.note_end()
    assert recorder.requests.finish("a")
    assert recorder.got["a"][-1].completion_tokens == 3


def test_only_requests_that_wait_are_handed_back() -> None:
    recorder = Recorder("runs", "waits")
    recorder.requests.waiting = frozenset({"waits"})
    assert [recorder.requests.hand_back(name) for name in ("runs", "waits", "waits", "none")] == [
        False, True, False, False
    ]  # fmt: skip
    assert isinstance(recorder.got["waits"][0], HandedOver)
    assert recorder.sent[-1] == wire.Cancel("waits")
    recorder.requests.note_end()
    recorder.add("held")
    assert recorder.requests.all_waiting == {"waits", "held"}
    assert recorder.requests.hand_back("held")
    assert recorder.sent[-1] == wire.Cancel("waits")
