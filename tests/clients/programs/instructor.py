"""instructor: answers in a form, by a forced call and by a JSON schema, whole and as they come.

Arguments and output: see tests/clients/conversation.py. The forms leave the built-in model one answer each.
"""

import itertools
import json
import sys
from typing import Any, Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel

url, model, question, task = sys.argv[1:]


class Answer(BaseModel, extra="forbid"):
    """An answer"""

    about: Literal["VRAM"]
    kind: Literal["memory", "processor"]


class Weather(BaseModel, extra="forbid"):
    """Weather of a city"""

    city: Literal["Paris"]
    temperature: Literal[18]
    sky: Literal["sunny"]


def asked(mode: Any, form: Any, text: str, stream: bool) -> list[Any]:
    """The answer in `form`, or all its partial states."""
    client = instructor.from_openai(OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0), mode=mode)
    options: dict[str, Any] = {
        "model": model, "messages": [{"role": "user", "content": text}], "response_model": form,
        "temperature": 0, "max_tokens": 200, "max_retries": 0,
    }  # fmt: skip
    if stream:
        return list(client.chat.completions.create_partial(**options))
    return [client.chat.completions.create(**options)]


def pieces(states: list[Any]) -> list[str]:
    """The last of `states`, cut into as many pieces as there were different ones."""
    text = states[-1].model_dump_json()
    n = len({state.model_dump_json() for state in states})
    cuts = [len(text) * i // n for i in range(n + 1)]
    return [text[start:end] for start, end in itertools.pairwise(cuts)]


schema, tools = instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS
print(
    json.dumps(
        {
            "plain": asked(schema, Answer, question, False)[-1].model_dump_json(),
            "streamed": pieces(asked(schema, Answer, question, True)),
            "tool": asked(tools, Weather, task, False)[-1].model_dump_json(),
            "tool_streamed": pieces(asked(tools, Weather, task, True)),
        }
    )
)
