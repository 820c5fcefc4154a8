"""The scripted model, behind the real application: what `make clients` needs of it."""

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.clients.script import instance, written
from tests.clients.scripted_engine import ScriptedEngine
from tests.server.live import async_openai_sdk, listening

TOOL: Any = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
}
CLOSED = "<think>\n\n</think>\n\n"


def chat(*messages: tuple[str, str]) -> str:
    turns = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in messages)
    return f"{turns}<|im_start|>assistant\n{CLOSED}"


def test_a_question_is_repeated() -> None:
    assert written(chat(("system", "x"), ("user", "hi"))) == "You wrote: hi"


def test_lines_are_written_as_ordered() -> None:
    assert written(chat(("user", "Please\nWRITE\na\nb\nEND\nThanks"))) == "a\nb"


def test_a_result_is_repeated() -> None:
    result = ("tool", "<tool_response>\nsun\n</tool_response>")
    assert written(chat(("user", "CALL look {}"), ("assistant", "..."), result)) == "The result is: sun"


def test_no_call_twice() -> None:
    result = ("tool", "<tool_response>\nsun\n</tool_response>")
    called = [("user", "CALL look {}"), ("assistant", "..."), result, ("user", "Tool loaded.")]
    assert written(chat(*called)) == "The result is: sun"


def test_no_call_of_what_was_not_offered() -> None:
    assert written(chat(("user", "CALL look {}"))) == "There is no tool look among these: "


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "object", "properties": {"a": {"enum": ["b"]}, "c": {}}, "required": ["a"]}, {"a": "b"}),
        ({"anyOf": [{"const": 3}]}, 3),
        ({"type": "array"}, []),
        ({"type": "null"}, None),
        ({}, "text"),
    ],
)
def test_instances(schema: dict[str, object], value: object) -> None:
    assert instance(schema) == value


async def test_a_call_and_its_result_through_the_server() -> None:
    async with (
        listening(ScriptedEngine()) as url,
        async_openai_sdk(url) as client,
    ):
        messages: list[ChatCompletionMessageParam] = [
            {"role": "user", "content": 'CALL look {"at": ["the sky"]}'}
        ]
        reply = await client.chat.completions.create(model="scripted", messages=messages, tools=[TOOL])
        assert reply.choices[0].message.tool_calls is not None
        (call,) = reply.choices[0].message.tool_calls
        assert call.type == "function"
        assert (call.function.name, json.loads(call.function.arguments)) == ("look", {"at": ["the sky"]})
        messages.append(reply.choices[0].message.model_dump(exclude_none=True))  # type: ignore[arg-type]
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "blue"})
        stream = await client.chat.completions.create(model="scripted", messages=messages, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(pieces) == "The result is: blue"
        assert len(pieces) > 3
