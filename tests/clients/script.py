"""The words of a scripted model: a function from a prompt's text to the text that a model would write.

The prompt is in the form of template.jinja. The model has these rules, in this order:

- The last message is the result of a call: it repeats the result.
- The last user message with an order has `CALL name {...}` in it: it writes that call if the tool was
  offered, and a sentence about the missing tool otherwise.
- That message has a line `WRITE`: it writes the lines behind, up to a line `END`.
- Anything else: it repeats the user's last message, or the beginning and the end of a long one.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

_MESSAGE = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>|\Z)", re.DOTALL)
_TOOLS = re.compile(r"<tools>\n(.*?)</tools>", re.DOTALL)
_RESULT = re.compile(r"<tool_response>\n(.*?)\n</tool_response>", re.DOTALL)
_CALL = re.compile(r"CALL ([\w.-]+) (?=\{)")
_WRITE = re.compile(r"^WRITE\n(.*?)\nEND$", re.DOTALL | re.MULTILINE)
_THOUGHT = "<think>\nThe user wants an answer.\n</think>\n\n"


def written(prompt: str) -> str:
    """The answer to `prompt`: thoughts, unless the prompt closes them, then a call or a text."""
    thought = "" if prompt.endswith("</think>\n\n") else _THOUGHT
    return thought + _answer(_MESSAGE.findall(prompt)[:-1], offered(prompt))


def offered(prompt: str) -> frozenset[str]:
    """The names of the tools that `prompt` shows."""
    lines = [line for found in _TOOLS.findall(prompt) for line in found.splitlines()]
    return frozenset(json.loads(line)["function"]["name"] for line in lines)


def instance(schema: Mapping[str, Any]) -> Any:
    """The shortest value that a simple JSON schema allows."""
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return instance(schema["anyOf"][0])
    match schema.get("type"):
        case "object":
            properties = schema.get("properties", {})
            return {name: instance(properties[name]) for name in schema.get("required", ())}
        case "array":
            return []
        case "integer" | "number":
            return 1
        case "boolean":
            return True
        case "null":
            return None
    return "text"


def _answer(messages: list[tuple[str, str]], tools: frozenset[str]) -> str:
    role, last = messages[-1] if messages else ("user", "")
    if role == "tool":
        return f"The result is: {' '.join(_RESULT.findall(last))}"
    texts = [text for role, text in reversed(messages) if role == "user"]
    for text in texts:
        if calls := list(_CALL.finditer(text)):
            return _call(text, calls[-1], tools)
        if lines := _WRITE.findall(text):
            return str(lines[-1])
    text = texts[0] if texts else last
    return f"You wrote: {text if len(text) <= 400 else text[:200] + ' ... ' + text[-200:]}"


def _call(text: str, order: re.Match[str], tools: frozenset[str]) -> str:
    name = order[1]
    if name not in tools:
        return f"There is no tool {name} among these: {', '.join(sorted(tools))}"
    arguments, _ = json.JSONDecoder().raw_decode(text, order.end())
    call = json.dumps({"name": name, "arguments": arguments})
    return f"I call {name}.\n<tool_call>\n{call}\n</tool_call>"
