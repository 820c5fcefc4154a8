"""Open WebUI, as a server of its own between the program and the model. Arguments and output: see
tests/clients/conversation.py. It runs without PyTorch, which only its search in documents needs.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

url, model, question, task = sys.argv[1:]
PATIENCE_S = 200.0
TOOLS: Any = [
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
WEATHER = {"city": "Paris", "temperature": 18, "sky": "sunny"}
SETTINGS = {
    "OPENAI_API_BASE_URL": f"{url}/v1",
    "OPENAI_API_KEY": "none",
    "ENABLE_OLLAMA_API": "false",
    "WEBUI_AUTH": "false",
    "WEBUI_SECRET_KEY": "none",
    "DATA_DIR": str(Path.cwd()),
    "RAG_EMBEDDING_ENGINE": "openai",
    "OFFLINE_MODE": "true",
    "HF_HUB_OFFLINE": "1",
    "ANONYMIZED_TELEMETRY": "false",
    "SCARF_NO_ANALYTICS": "true",
}


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def running(port: int) -> Iterator[None]:
    """Open WebUI, once it answers."""
    with Path("log").open("w") as log:
        process = subprocess.Popen(
            ["open-webui", "serve", "--host", "127.0.0.1", "--port", str(port)],
            env={**os.environ, **SETTINGS}, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not is_healthy(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"open-webui does not start: {Path('log').read_text()[-1500:]}")
                time.sleep(0.5)  # between two looks, up to the deadline
            yield
        finally:
            process.terminate()
            process.wait(30)


def is_healthy(port: int) -> bool:
    """True where it answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def post(address: str, body: Any, token: str = "") -> list[str]:
    """The lines of the answer."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(address, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=100) as reply:
            return [str(line, "utf-8").strip() for line in reply]
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{address}: {error.code} {error.read().decode()[:700]}") from error


def chat(messages: Any, *, stream: bool, **more: Any) -> Any:
    """The answer, or its chunks."""
    body = {"model": model, "messages": messages, "temperature": 0, "stream": stream, **more}
    lines = post(f"{home}/api/chat/completions", body, token)
    if not stream:
        return json.loads("".join(lines))["choices"][0]["message"]
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    found = [json.loads(each) for each in data if each != "[DONE]"]
    return [chunk["choices"][0]["delta"] for chunk in found if chunk.get("choices")]


def pieces(deltas: Any) -> list[str]:
    """The text of `deltas`."""
    return [delta["content"] for delta in deltas if delta.get("content")]


def answered(call: Any) -> Any:
    """The task, the call, and its result."""
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}, call
    return [
        *tasked,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": json.dumps(WEATHER)},
    ]


def called(deltas: Any) -> Any:
    """The call that `deltas` make up."""
    parts = [part for delta in deltas for part in delta.get("tool_calls") or ()]
    arguments = "".join(part["function"].get("arguments") or "" for part in parts)
    function = {"name": parts[0]["function"]["name"], "arguments": arguments}
    return {"id": parts[0]["id"], "type": "function", "function": function}


asked: Any = [{"role": "user", "content": question}]
tasked: Any = [{"role": "user", "content": task}]
port = free_port()
home = f"http://127.0.0.1:{port}"
with running(port):
    signed_in = post(f"{home}/api/v1/auths/signin", {"email": "", "password": ""})
    token = json.loads("".join(signed_in))["token"]
    with urllib.request.urlopen(
        urllib.request.Request(f"{home}/api/models", headers={"Authorization": f"Bearer {token}"})
    ) as reply:
        names = [each["id"] for each in json.load(reply)["data"]]
    assert model in names, names
    (call,) = chat(tasked, stream=False, tools=TOOLS)["tool_calls"]
    streamed_call = called(chat(tasked, stream=True, tools=TOOLS))
    answers = {
        "plain": chat(asked, stream=False)["content"],
        "streamed": pieces(chat(asked, stream=True)),
        "tool": chat(answered(call), stream=False, tools=TOOLS)["content"],
        "tool_streamed": pieces(chat(answered(streamed_call), stream=True, tools=TOOLS)),
    }
print(json.dumps(answers))
