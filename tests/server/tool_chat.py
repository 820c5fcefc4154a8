"""A model that thinks and calls tools, for the endpoints' tests: its template, and what it says."""

from dataclasses import replace
from typing import Any

from tests.server.fake_engine import INFO

TEMPLATE = (
    "{% for t in tools or [] %}{{ t.function.name }} {% endfor %}{% for m in messages %}[{{ m.role }}]"
    "{{ m.reasoning_content or '' }}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.id }} {{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"
    "{% if not enable_thinking %}False{% endif %}"
    '{#- <tool_call>{"name": "arguments": }</tool_call> <think></think> -#}'
)
TALKER = replace(INFO, chat_template=TEMPLATE)
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "get_weather", "description": "Weather of a city", "parameters": PARAMETERS}
TOOLS: list[dict[str, Any]] = [{"type": "function", "function": FUNCTION}]
ARGUMENTS = '{"city": "Paris"}'
PIECES = (
    "<thi", "nk>I should", " look.</think>\n\n", "One ", "moment.\n\n", '<tool_call>\n{"name": "get_',
    'weather", "argu', 'ments": {"city"', ': "Par', 'is"}', "}\n</tool_", "call>\n",
    '<tool_call>\n{"name": "now", "arguments": {}}', "\n</tool_call>",
)  # fmt: skip
