"""The marks around thinking of small templates, each with one property of the public ones."""

import pytest

from vram_llm.chat.find_thinking import find_thinking
from vram_llm.chat.formats.thinking_marks import DEFAULT, ThinkingMarks
from vram_llm.chat.template_probe import USER, TemplateProbe

HEAD = "{% for m in messages %}<|{{ m.role }}|>{% if m.reasoning_content %}"
TAIL = "{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"


def template(before: str, between: str, *, plain: str = "", opens: str = "", off: str = "") -> str:
    """`before` and `between` surround a thought; `plain` stands there if there is none."""
    thought = f"{before}{{{{ m.reasoning_content }}}}{between}"
    thought += f"{{% elif m.role == 'assistant' %}}{plain}{{% endif %}}"
    switch = f"{{% if enable_thinking | default(true) %}}{opens}{{% else %}}{off}{{% endif %}}"
    return HEAD + thought + TAIL.removesuffix("{% endif %}") + switch + "{% endif %}"


@pytest.mark.parametrize(
    ("source", "opening", "closing", "closes", "skips"),
    [
        (
            template("<think>\n", "\n</think>\n\n"),
            "<think>",
            "</think>",
            "\n</think>\n\n",
            "<think>\n\n</think>\n\n",
        ),
        (template("<r>", "</r>", plain="<r></r>"), "<r>", "</r>", "</r>", "<r></r>"),
        (template("<r>", "</r>", opens="<r>", off="</r>"), "<r>", "</r>", "</r>", "<r></r>"),
        (
            template("<r>\n", "\n</r>\n", off="<r>\noff\n</r>\n"),
            "<r>",
            "</r>",
            "\n</r>\n",
            "<r>\noff\n</r>\n",
        ),
        (
            template("<|channel>thought\n", "<channel|>"),
            "<|channel>thought",
            "<channel|>",
            "<channel|>",
            "<|channel>thought\n<channel|>",
        ),
        (template("<think:x>", "</think:x>"), "<think:x>", "</think:x>", "</think:x>", "<think:x></think:x>"),
        (template("[THINK]", "[/THINK]"), "[THINK]", "[/THINK]", "[/THINK]", "[THINK][/THINK]"),
        (template("<｜想｜>", "<｜/想｜>"), "<｜想｜>", "<｜/想｜>", "<｜/想｜>", "<｜想｜><｜/想｜>"),
        (
            template("", "\n[FINAL ANSWER]\n", opens="I think:\n"),
            "I think:",
            "[FINAL ANSWER]",
            "\n[FINAL ANSWER]\n",
            "I think:\n\n[FINAL ANSWER]\n",
        ),
    ],
)
def test_marks_of_earlier_thinking(source: str, opening: str, closing: str, closes: str, skips: str) -> None:
    assert find_thinking(TemplateProbe(source)) == ThinkingMarks(
        opening, closing, closes, skips, field="reasoning_content"
    )


def test_marks_of_the_answer() -> None:
    source = template(
        "<|open|>think<|sep|>", "<|close|>think<|sep|><|open|>say<|sep|>", plain="<|open|>say<|sep|>"
    )
    source = source.replace("{{ m.content }}", "{{ m.content }}<|close|>say<|sep|>")
    found = find_thinking(TemplateProbe(source))
    assert found is not None
    assert (found.opening, found.closing) == ("<|open|>think<|sep|>", "<|close|>think<|sep|>")
    assert (found.answer, found.end) == ("<|open|>say<|sep|>", "<|close|>say<|sep|>")
    assert found.skips == "<|open|>say<|sep|>"
    assert {"<|open|>", "<|close|>", "<|sep|>"} <= set(found.marks)


@pytest.mark.parametrize(
    ("source", "thinks"),
    [
        ("{{ m }}{% if enable_thinking %}{% else %}<r>\n\n</r>\n{% endif %}", ("<r>", "</r>")),
        ("{% if enable_thinking %}<r>\n{% else %}<r>\n</r>{% endif %}", ("<r>", "</r>")),
        ("{% if thinking %}<r>{% else %}<r></r>{% endif %}", ("<r>", "</r>")),
        ("{{ messages[0].content }}<think>\n", ("<think>", "</think>")),
        ("{{ messages[0].content.split('</think>')[-1] }}", ("<think>", "</think>")),
        ("{{ messages[0].content.split('[/THINK]')[-1] }}", ("[THINK]", "[/THINK]")),
        ("{{ messages[0].content }}", None),
        ("{{ messages }}", None),  # fields and all
        ("{{ messages | tojson }}", None),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", None),  # a list of parts, as Python writes it
        ("{% for m in messages %}{{ m.reasoning_content }}{% endfor %}", None),
        ("{{ raise_exception('no') }}", None),
        ("{{ oops(", None),
        ("", None),
    ],
)
def test_templates_that_show_no_thinking(source: str, thinks: tuple[str, str] | None) -> None:
    found = find_thinking(TemplateProbe(source))
    assert (found and (found.opening, found.closing)) == thinks


def test_thinking_in_parts_of_the_content() -> None:
    source = (
        "{% for m in messages %}<|{{ m.role }}|>{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for p in m.content %}{% if p.type == 'thinking' %}<t>{{ p.thinking }}</t>{% else %}{{ p.text }}"
        "{% endif %}{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    found = find_thinking(TemplateProbe(source))
    assert found is not None
    assert (found.opening, found.closing, found.skips) == ("<t>", "</t>", "<t></t>")


def test_a_known_pair_has_the_default_form() -> None:
    assert find_thinking(TemplateProbe("</think>")) == DEFAULT


def test_a_template_has_its_time() -> None:
    assert TemplateProbe("{{ messages[0].content }}").prompt({}) == USER
    assert TemplateProbe("{{ messages[0].content }}", max_seconds=0).prompt({}) == ""
