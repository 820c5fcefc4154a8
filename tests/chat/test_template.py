"""Templates of the shapes models come with."""

import datetime
import json
from typing import Any

import pytest

from vram_llm.chat.template import BrokenTemplate, ChatTemplate, check_template
from vram_llm.errors import RequestError

SYSTEM = {"role": "system", "content": "Be kind."}
USER = {"role": "user", "content": "Hi"}
ASSISTANT = {"role": "assistant", "content": "Hello"}

CHATML = """{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
HEADERS = """{{ bos_token }}{% for message in messages %}
{{ '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\\n\\n' ~ message.content | trim ~ '<|eot_id|>' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
TURNS = """{{ bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{%- set role = 'model' if message.role == 'assistant' else message.role %}
{{- '<start_of_turn>%s\\n%s<end_of_turn>\\n' % (role, message.content) }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
INST = """{%- set ns = namespace(system='') %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- set ns.system = message.content ~ '\\n\\n' %}
        {%- continue %}
    {%- endif %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' + (ns.system if loop.last else '') + message.content + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message.content + eos_token }}
    {%- endif %}
{%- endfor %}"""


@pytest.mark.parametrize(
    ("source", "messages", "prompt"),
    [
        (None, [USER], "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
        (
            CHATML,
            [SYSTEM, USER],
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            HEADERS,
            [USER],
            "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            TURNS,
            [USER, ASSISTANT, USER],
            "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n"
            "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
        ),
        (INST, [SYSTEM, USER, ASSISTANT, USER], "[INST] Hi [/INST] Hello</s>[INST] Be kind.\n\nHi [/INST]"),
    ],
)
def test_shapes(source: str | None, messages: list[dict[str, Any]], prompt: str) -> None:
    assert ChatTemplate(source, "<s>", "</s>").render(messages) == prompt


def render(source: str, messages: list[dict[str, Any]] | None = None, **names: Any) -> str:
    return ChatTemplate(source, "<s>", "</s>").render(messages or [USER], **names)


def test_no_generation_prompt() -> None:
    assert render(CHATML, add_generation_prompt=False) == "<|im_start|>user\nHi<|im_end|>\n"


def test_a_chat_that_ends_with_the_assistant_still_gets_a_new_turn() -> None:
    prompt = ChatTemplate(None, "", "").render([USER, ASSISTANT])
    assert prompt.endswith("Hello<|im_end|>\n<|im_start|>assistant\n")


def test_raise_exception_is_reported_to_the_client() -> None:
    with pytest.raises(RequestError, match="System role not supported") as caught:
        render(TURNS, [SYSTEM, USER])
    assert caught.value.param == "messages"


def test_tojson_escapes_neither_html_nor_unicode() -> None:
    source = "{{ messages[0].content | tojson }}{{ {'b': 1, 'a': [2]} | tojson(indent=1) }}"
    assert render(source, [{"role": "user", "content": "<é'>"}]) == '"<é\'>"{\n "b": 1,\n "a": [\n  2\n ]\n}'


def test_text_is_not_escaped() -> None:
    assert render("{{ messages[0].content }}", [{"role": "user", "content": "a < b & c"}]) == "a < b & c"


def test_messages_are_not_templates() -> None:
    assert render("{{ messages[0].content }}", [{"role": "user", "content": "{{ 1 + 1 }}"}]) == "{{ 1 + 1 }}"


def test_strftime_now() -> None:
    assert render("{{ strftime_now('%Y') }}") == str(datetime.datetime.now().year)


def test_names_for_the_template() -> None:
    source = "{{ enable_thinking }} {{ tools is none }} {{ bos_token }}"
    assert render(source, enable_thinking=False) == "False True <s>"


def test_no_tools_is_none_to_most_and_undefined_to_those_that_loop_over_them() -> None:
    assert render("{{ tools is none }}{{ tools is defined }}") == "TrueTrue"
    assert render("{% for tool in tools %}{{ tool }}{% endfor %}none") == "none"
    assert render("{{ 'f: ' + functions }}{% for tool in tools or [] %}{% endfor %}") == "f: "


def test_functions_are_the_tools_as_text_to_templates_that_join_them() -> None:
    assert json.loads(render("{{ '' + functions }}", tools=[{"type": "function"}])) == [{"type": "function"}]


def test_today_unless_the_client_gives_another_day() -> None:
    today = datetime.datetime.now()
    assert render("{{ date_string }}, {{ datetime }}") == f"{today:%d %b %Y}, {today:%b %d %Y}"
    assert render("{{ date_string }}", date_string="1 Jan 2000") == "1 Jan 2000"


def test_a_template_may_change_lists_of_its_own_and_no_others() -> None:
    own = "{% set n = namespace(a=[1]) %}{% set _ = n.a.append(2) %}{{ n.a.pop(0) }}{{ n.a }}"
    assert render(own) == "1[2]"
    with pytest.raises(RequestError, match="'append' of 'list' object is unsafe"):
        render("{{ messages.append(1) }}")
    with pytest.raises(RequestError, match="'pop' of 'dict' object is unsafe"):
        render("{{ messages[0].pop('role') }}")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("{{ messages }}\n{% for %}", r"^FILE is not a Jinja template \(line 2: .*\)$"),
        (
            "{{ messages }}\n\n{{ nothing.here }}",
            r"^FILE cannot write a chat: .* line 3: 'nothing' is undefined$",
        ),
        ("Hello", r"^FILE leaves out the message of a chat; is it a chat template\?$"),
    ],
)
def test_a_broken_template_is_found_before_it_is_used(source: str, sentence: str) -> None:
    with pytest.raises(BrokenTemplate, match=sentence):
        check_template(source, "FILE")


@pytest.mark.parametrize("source", [CHATML, "{{ raise_exception('not this chat') }}"])
def test_other_templates_pass(source: str) -> None:
    check_template(source, "FILE")


@pytest.mark.parametrize(
    "source", ["{% for %}", "{{", "{{ x | nofilter }}", "{% for a in [1] %}" * 30 + "{% endfor %}" * 30]
)
def test_a_template_that_does_not_compile_fails_when_used(source: str) -> None:
    template = ChatTemplate(source, "", "")
    with pytest.raises(BrokenTemplate, match=r"does not compile .* use /v1/completions"):
        template.render([USER])


@pytest.mark.parametrize(
    "source", ["{{ nothing.here }}", "{{ 1 / 0 }}", "{{ 'a' + 1 }}", "{% include 'x' %}"]
)
def test_a_template_that_fails_is_a_clear_refusal(source: str) -> None:
    with pytest.raises(RequestError, match=r"template fails on these messages: .") as caught:
        render(source)
    assert "\n" not in str(caught.value)


def test_what_the_model_is_trained_on_is_marked_and_shown() -> None:
    source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}!{% endfor %}"
    assert render(source) == "Hi!"


def test_tojson_of_what_a_filter_makes() -> None:
    source = "{{ messages | map(attribute='content') | tojson }}"
    assert render(source) == '["Hi"]'
