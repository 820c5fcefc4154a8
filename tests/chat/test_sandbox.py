"""Templates written to do harm."""

import pytest

from vram_llm.chat import sandbox
from vram_llm.chat.template import ChatTemplate
from vram_llm.errors import RequestError

USER = {"role": "user", "content": "Hi"}
GROW = "{% set ns = namespace(x='aaaa') %}{% for i in range(64) %}BODY{% endfor %}{{ ns.x | length }}"


def render(source: str) -> str:
    return ChatTemplate(source, "<s>", "</s>").render([USER])


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ (''|attr('__class__')).mro() }}",
        "{{ ''['__class__']['__mro__'] }}",
        "{{ raise_exception.__globals__['__builtins__'] }}",
        "{{ self._TemplateReference__context.environment }}",
        "{{ '{0.__class__.__mro__}'.format(1) }}",
        "{{ namespace.__init__.__globals__.os }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='system') }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_no_way_out(source: str) -> None:
    with pytest.raises(RequestError):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set l = range(999)|list %}{% for a in l %}{% for b in l if false %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for a in range(9999) %}{{ range(9999) | map('string') | list | length }}{% endfor %}",
    ],
)
def test_work_without_end(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_STEPS", 20_000)
    with pytest.raises(RequestError, match="more than 20,000 steps"):
        render(source)


def test_time_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_SECONDS", -1)
    with pytest.raises(RequestError, match="more than -1 s"):
        render("{% for message in messages %}{% endfor %}")


def test_recursion_without_end() -> None:
    with pytest.raises(RequestError, match="calls itself without end"):
        render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10000000000 }}",
        "{{ 10000000000 * 'a' }}",
        "{{ [1] * 10000000000 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ 'a'.ljust(10000000000) }}",
        "{{ 'a' | center(10000000000) }}",
        "{{ '%9999999999d' % 1 }}",
        "{{ '%*d' % (9999999999, 1) }}",
        "{{ '{:9999999999}'.format(1) }}",
        "{{ '{:{}}'.format(1, 9999999999) }}",
        "{{ '%9999999999d' | format(1) }}",
        "{{ messages | tojson(indent=9999999999) }}",
        "{{ strftime_now('%999999999Y') }}",
        "{% for i in range(99999) %}" + "x" * 1000 + "{% endfor %}",
        "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
        GROW.replace("BODY", "{% set ns.x = ns.x + ns.x %}"),
        GROW.replace("BODY", "{% set ns.x = ns.x ~ ns.x %}"),
        GROW.replace("BODY", "{% set t %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = t %}"),
    ],
)
def test_text_without_end(source: str) -> None:
    with pytest.raises(RequestError, match=r"more than|above|five digits"):
        render(source)


def test_common_template_code_is_allowed() -> None:
    source = "{% for i in range(3) %}{{ loop.index ~ '-' * 2 }}{% endfor %}{{ 7 % 3 }}{{ 'a'.ljust(3) }}|"
    assert render(source) == "1--2--3--1a  |"


def test_meters_cannot_be_shadowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_STEPS", 100)
    with pytest.raises(RequestError, match="steps"):
        render("{% set environment = 1 %}{% set step = 1 %}{% for i in range(200) %}{% endfor %}")
