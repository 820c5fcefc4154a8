"""langchain-llama-cpp: ChatLlama, with a tool bound to it. Arguments and output: see
tests/clients/conversation.py.
"""

import json
import sys

from langchain_core.messages import AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_llama_cpp import ChatLlama

url, name, question, task = sys.argv[1:]


@tool
def get_weather(city: str) -> str:
    """Weather of a city"""
    return json.dumps({"city": city, "temperature": 18, "sky": "sunny"})


model = ChatLlama(model=name, base_url=url, temperature=0, max_retries=0)
with_tool = model.bind_tools([get_weather])


def called(answer: AIMessageChunk) -> list[BaseMessage]:
    """The chat after the calls of an answer and their results."""
    results = [
        ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"]) for call in answer.tool_calls
    ]
    return [HumanMessage(task), answer, *results]


def streamed(messages: list[BaseMessage]) -> list[AIMessageChunk]:
    return list(with_tool.stream(messages))


first = streamed([HumanMessage(task)])
whole = first[0]
for chunk in first[1:]:
    whole += chunk
print(
    json.dumps(
        {
            "plain": model.invoke(question).text,
            "streamed": [chunk.text for chunk in model.stream(question) if chunk.text],
            "tool": with_tool.invoke(called(with_tool.invoke(task))).text,
            "tool_streamed": [chunk.text for chunk in streamed(called(whole)) if chunk.text],
        }
    )
)
