"""The words of a scripted model: a function from a prompt's text to the text that a model would write.

The prompt is in the form of template.jinja. The model reads the messages behind its own last one, and has
these rules, in this order:

- A user's message has `CALL name {...}` in it: the model writes that call if the tool was offered, and a
  sentence about the missing tool otherwise.
- A user's message has a line `WRITE`: it writes the lines behind, up to a line `END`.
- There are results of calls: it repeats them.
- Anything else: it repeats the user's last message, or the beginning and the end of a long one.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

_MESSAGE = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>|\Z)", re.DOTALL)
_TOOLS = re.compile(r"\A<\|im_start\|>system\nYou may call functions:\n<tools>\n(.*?)\n</tools>\n", re.DOTALL)
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
    found = _TOOLS.match(prompt)
    lines = found[1].split("\n") if found else []
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
    own = max((i for i, (role, _) in enumerate(messages) if role == "assistant"), default=-1)
    texts = [text for role, text in messages[own + 1 :] if role == "user"]
    for text in reversed(texts):
        if calls := list(_CALL.finditer(text)):
            return _call(text, calls[-1], tools)
        if lines := _WRITE.findall(text):
            return str(lines[-1])
    if results := [text for role, text in messages[own + 1 :] if role == "tool"]:
        return f"The result is: {' '.join(found for text in results for found in _RESULT.findall(text))}"
    text = texts[-1] if texts else ""
    return f"You wrote: {text if len(text) <= 400 else text[:200] + ' ... ' + text[-200:]}"


def _call(text: str, order: re.Match[str], tools: frozenset[str]) -> str:
    name = order[1]
    if name not in tools:
        return f"There is no tool {name} among these: {', '.join(sorted(tools))}"
    arguments, _ = json.JSONDecoder().raw_decode(text, order.end())
    call = json.dumps({"name": name, "arguments": arguments})
    return f"I call {name}.\n<tool_call>\n{call}\n</tool_call>"
