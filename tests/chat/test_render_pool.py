"""Templates in processes of their own: the same prompts, and one that runs away costs its own chat."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from tests.chat.templates import source_of
from tests.patience import looks
from vram_llm.chat.render import Outcome, Rendering, render_here, rendering_with
from vram_llm.chat.render_pool import (
    RenderPool,
    RenderProcessFailed,
    _RenderProcess,
    rendering_in_processes,
)
from vram_llm.chat.template import ChatTemplate, TemplateRanAway, TemplateRefusal
from vram_llm.errors import RequestError
from vram_llm.server.serving_context import chat_template

pytestmark = pytest.mark.process

USER = {"role": "user", "content": "Hi, \ud800 Ünï 你好"}  # a lone surrogate may come from JSON
SLOW = (
    "{% set x = range(99999)|list|string %}"
    "{% for i in range(9999) %}{% set y = x.replace('1', x[:99]) %}{% endfor %}"
)
LARGE = (
    "{% set n = namespace(x='a' * 99) %}"
    "{% for i in range(12) %}{% set n.x = n.x.replace('a', 'aaaa') %}{% endfor %}"
)


@pytest.fixture(scope="module")
def pool() -> Iterator[RenderPool]:
    pool = RenderPool(max_seconds=0)
    yield pool
    pool.close()
    assert _processes() == []


def _processes() -> list[psutil.Process]:
    """The children of this process that render."""
    return [
        child for child in psutil.Process().children() if "vram_llm.chat.render_process" in child.cmdline()
    ]


@pytest.mark.parametrize("name", ["Qwen3-Coder", "meta-llama-Llama-3.2-3B-Instruct"])
def test_prompts_are_those_of_this_process(pool: RenderPool, name: str) -> None:
    names = {"messages": [USER], "add_generation_prompt": True, "bos_token": "<s>", "date_string": "today"}
    here, there = render_here(source_of(name), names), pool(source_of(name), names)
    assert (there.outcome, there.text) == (here.outcome, here.text)
    assert "你好" in there.text


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no') }}",
        "{{ nothing.at.all }}",
        "{% if %}",
        "{{ 9**9**9 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_failures_are_those_of_this_process(pool: RenderPool, source: str) -> None:
    here, there = render_here(source, {"messages": [USER]}), pool(source, {"messages": [USER]})
    assert (there.outcome, there.text) == (here.outcome, here.text)


def test_runaways_cost_their_own_chats() -> None:
    with rendering_in_processes(max_seconds=0):
        good = ChatTemplate("{{ messages[0].content }}", "", "")
        with ThreadPoolExecutor(1) as thread:
            slow = ChatTemplate(SLOW, "", "")
            failing = thread.submit(slow.render, [USER], tools=[])
            assert good.render([{"role": "user", "content": "a"}]) == "a"
            with pytest.raises(TemplateRanAway, match="0 s of processor time"):
                failing.result()
        with pytest.raises(RequestError, match="memory"):
            ChatTemplate(LARGE, "", "").render([USER], tools=[])
        with pytest.raises(TemplateRefusal, match="never"):
            ChatTemplate("{{ raise_exception('never') }}", "", "").render([USER])
        assert good.render([{"role": "user", "content": "b"}]) == "b"


def test_a_process_that_was_killed_is_replaced(pool: RenderPool) -> None:
    assert pool("a", {"messages": []}).text == "a"
    for process in _processes():
        process.kill()
        process.wait()
    assert pool("b", {"messages": []}).text == "b"


def test_an_order_is_given_to_another_process_if_the_first_was_killed_over_it() -> None:
    source = "{% for i in range(9999) %}{{ 'a' if loop.last }}{% for j in range(9) %}{% endfor %}{% endfor %}"
    patient = RenderPool(max_seconds=60)
    with ThreadPoolExecutor(1) as thread:
        rendering = thread.submit(patient, source, {"messages": []})
        for _ in looks():
            if patient._working or rendering.done():
                break
        for process in list(patient._working):
            process.kill()
        assert rendering.result() == (Outcome.TEXT, "a", rendering.result().seconds)
    patient.close()


def test_an_order_is_given_to_another_process_if_the_first_had_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = RenderPool()
    assert pool("a", {"messages": []}).text == "a"
    monkeypatch.setattr(_RenderProcess, "is_gone", False)  # it ends after this was asked
    for process in pool._waiting:
        process._process.kill()
    assert pool("b", {"messages": []}).text == "b"
    pool.close()


def test_a_template_is_not_broken_because_its_processes_were_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = _RenderProcess.ask

    def killed(process: _RenderProcess, order: bytes) -> Rendering | None:
        process.kill()
        return ask(process, order)

    source = "{{ messages[0].content }} of a template that is compiled here alone"
    with rendering_in_processes():
        with monkeypatch.context() as short_of_memory:
            short_of_memory.setattr(_RenderProcess, "ask", killed)
            with pytest.raises(RenderProcessFailed, match="killed 3 processes"):
                chat_template(source, "", "")
        assert chat_template(source, "", "").fault == ""


def test_what_a_template_shows_is_not_concluded_from_a_lack_of_processes() -> None:
    def none_left(source: str, names: Mapping[str, Any] | None) -> Rendering:
        raise RenderProcessFailed("no process")

    template = ChatTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}", "", "")
    with rendering_with(none_left), pytest.raises(RenderProcessFailed):
        _ = template.caps
    assert template.caps == ChatTemplate(template._source, "", "").caps


def test_a_pool_that_is_closed_ends_what_it_renders() -> None:
    pool = RenderPool()
    with ThreadPoolExecutor(1) as thread:
        rendering = thread.submit(pool, SLOW, {"messages": []})
        for _ in looks():
            if pool._working:
                break
        pool.close()
        assert rendering.result().outcome is Outcome.ENDED


def test_it_knows_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_API_KEY", "secret")
    before = set(_processes())
    with rendering_in_processes():
        ChatTemplate("{{ messages[0].content }}", "", "").render([USER])
        started = set(_processes()) - before
        assert started
        assert not any("LLAMA_API_KEY" in process.environ() for process in started)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_it_ends_with_a_server_that_is_killed() -> None:
    program = (
        "import time; from vram_llm.chat.render_pool import RenderPool; p = RenderPool(60); "
        f"print(flush=True); p({SLOW!r}, {{'messages': []}})"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        children: list[psutil.Process] = []
        for _ in looks():
            children = psutil.Process(parent.pid).children()
            if any(child.cpu_times().user > 0.5 for child in children):
                break
        os.kill(parent.pid, signal.SIGKILL)
    assert children
    _, alive = psutil.wait_procs(children, 60)
    assert not alive
