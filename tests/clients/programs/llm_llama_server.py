"""llm with the plug-in llm-llama-server. Arguments and output: see tests/clients/conversation.py.

The plug-in's models are at http://localhost:8080; here they get the address of this server.
"""

import json
import os
import sys
from collections.abc import Iterator

import llm

url, _, question, task = sys.argv[1:]
os.environ["OPENAI_API_KEY"] = "none"  # llm wants some key


def get_weather(city: str) -> str:
    "Weather of a city"
    return json.dumps({"city": city, "temperature": 18, "sky": "sunny"})


def model(name: str) -> llm.Model:
    """A model of the plug-in's."""
    found = llm.get_model(name)
    found.api_base = f"{url}/v1"
    return found


def chained(stream: bool) -> Iterator[str]:
    return iter(
        model("llama-server-tools").chain(
            task, tools=[get_weather], stream=stream, options={"temperature": 0}
        )
    )


plain = model("llama-server")
print(
    json.dumps(
        {
            "plain": plain.prompt(question, stream=False, temperature=0).text(),
            "streamed": list(plain.prompt(question, stream=True, temperature=0)),
            "tool": "".join(chained(stream=False)),
        }
    )
)
