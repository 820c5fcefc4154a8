"""The kinds of messages that templates show."""

import pytest

from tests.chat.kinds import KINDS
from vram_llm.chat.template import ChatTemplate
from vram_llm.chat.template_caps import TemplateCaps

SPEAKS = (
    "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
    "{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"
)
_TEST = "{% if m.tool_calls and m.content is not none %}"
NULL_CONTENT = (  # as DeepSeek R1
    "{% for m in messages %}{% if m.content is none %}{% for c in m.tool_calls %}"
    "{{ c.function.name + c.function.arguments }}{% endfor %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
ONE_CALL = (  # as Llama 3.1
    "{% for m in messages %}{% if m.tool_calls %}{% if m.tool_calls | length > 1 %}"
    "{{ raise_exception('one call') }}{% endif %}{{ m.tool_calls[0].function.arguments | tojson }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)


def caps(source: str | None) -> TemplateCaps:
    return ChatTemplate(source, "<s>", "</s>").caps


@pytest.mark.parametrize(
    ("kind", "system", "systems", "late_system", "developer", "users"),
    [
        ("all", True, True, True, False, True),
        ("first only", True, False, False, False, True),
        ("last wins", True, False, False, False, True),
        ("mentions developer", True, True, True, False, True),
        ("knows developer", True, True, True, True, True),
        ("strict first", True, False, False, False, True),
        ("no system", False, False, False, False, False),
        ("drops system", False, False, False, False, True),
    ],
)
def test_roles(
    kind: str, system: bool, systems: bool, late_system: bool, developer: bool, users: bool
) -> None:
    found = caps(KINDS[kind])
    assert (found.system_role, found.two_system_messages, found.late_system_message) == (
        system,
        systems,
        late_system,
    )
    assert (found.developer_role, found.consecutive_users) == (developer, users)


@pytest.mark.parametrize(
    (
        "source",
        "calls",
        "text_arguments",
        "null_content",
        "parallel_calls",
        "content_with_calls",
    ),
    [
        (None, False, False, False, False, False),
        (SPEAKS, True, False, False, True, True),
        (
            "{% for m in messages %}{{ m.content }}{{ m.tool_calls }}{% endfor %}",
            True,
            True,
            False,
            True,
            True,
        ),
        (NULL_CONTENT, True, True, True, True, False),
        (ONE_CALL, True, False, False, False, False),
    ],
)
def test_calls(
    source: str | None,
    calls: bool,
    text_arguments: bool,
    null_content: bool,
    parallel_calls: bool,
    content_with_calls: bool,
) -> None:
    found = caps(source)
    assert found.calls is calls
    assert (found.requires_text_arguments, found.requires_null_content) == (
        text_arguments,
        null_content,
    )
    assert (found.parallel_calls, found.content_with_calls) == (parallel_calls, content_with_calls)


def test_parts() -> None:
    source = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
    assert caps(source).requires_typed_content
    assert not caps(None).requires_typed_content


def test_a_broken_template_shows_nothing() -> None:
    assert not caps("{% for %}").system_role
