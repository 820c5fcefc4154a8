"""A tool call, its result, and the answer, through the OpenAI SDK; nothing forces the call.

python examples/tools.py [--base-url http://127.0.0.1:8080/v1] [--city Paris]
"""

import argparse
import json
from typing import Any

from openai import OpenAI

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]


def get_weather(city: str) -> dict[str, Any]:
    """A stand-in for a real weather service."""
    return {"city": city, "temperature": 18, "sky": "sunny"}


def main() -> None:
    """Ask, run what is called, and print the answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--city", default="Paris")
    parser.add_argument("--base-url", default="http://127.0.0.1:8080/v1")
    args = parser.parse_args()
    chat: list[Any] = [{"role": "user", "content": f"What is the weather in {args.city}?"}]
    with OpenAI(base_url=args.base_url, api_key="none") as client:
        model = client.models.list().data[0].id
        while True:
            reply = client.chat.completions.create(
                model=model, messages=chat, tools=TOOLS, temperature=0, max_tokens=200
            )
            message = reply.choices[0].message
            if not message.tool_calls:
                print(message.content)
                return
            chat.append(message.model_dump(exclude_none=True))
            for call in message.tool_calls:
                arguments = json.loads(call.function.arguments)
                result = json.dumps(get_weather(**arguments))
                print(f"{call.function.name}({call.function.arguments}) = {result}")
                chat.append({"role": "tool", "tool_call_id": call.id, "content": result})


if __name__ == "__main__":
    main()
