"""One client's conversation: its program runs, and its answers are looked through.

A program gets URL (without /v1), MODEL, QUESTION and TASK as arguments, and prints a JSON object as its
last line: `plain` and `streamed` are its answers to the question, `tool` and `tool_streamed` those to the
task, after a call of its tool. A streamed answer is a list of the pieces that came.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clients.environments import HERE, Environment, Python
from tests.clients.servers import Model

QUESTION = "What is VRAM?"
TASKS = {
    Model.DEMO: "What is the weather in Paris?",
    Model.SCRIPTED: 'CALL get_weather {"city": "Paris"}',
}
WORDS = {"plain": ("VRAM",), "streamed": ("VRAM",), "tool": ("18", "sunny"), "tool_streamed": ("18", "sunny")}
_NOWHERE = "http://127.0.0.1:9"  # the proxy of what should stay on this machine: nothing listens there


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A client program. The table shows the versions of `packages`. `lacks`: ways that it does not have."""

    name: str
    program: str
    environment: Environment
    packages: tuple[str, ...]
    options: tuple[str, ...] = ()  # arguments behind the four of every program
    model: Model = Model.DEMO
    lacks: tuple[str, ...] = ()
    time_limit_s: float = 300.0

    @property
    def version(self) -> str:
        return ", ".join(self.environment.version(package) for package in self.packages)


@dataclass(frozen=True, slots=True)
class Result:
    """Per way ("plain", ...) "ok", "-" or "FAILED"; `error` is empty where none failed."""

    ways: dict[str, str]
    error: str
    seconds: float


def converse(client: Client, url: str) -> Result:
    """Run the client's program in a folder of its own."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as home:
        command = [*_command(client), url, str(client.model), QUESTION, TASKS[client.model], *client.options]
        code, output, errors = _run(command, client, Path(home))
    seconds = time.monotonic() - begun
    if code != 0:
        reason = f"no end after {client.time_limit_s:.0f} s" if code is None else f"exit code {code}"
        return Result(
            dict.fromkeys(WORDS, "FAILED"), f"{reason}: {(errors or output).strip()[-1500:]}", seconds
        )
    try:
        answers = json.loads(output.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return Result(dict.fromkeys(WORDS, "FAILED"), f"its last line is no JSON: {output[-500:]!r}", seconds)
    faults = {way: _fault(way, answers.get(way), client.lacks) for way in WORDS}
    ways = {way: "-" if way in client.lacks else "FAILED" if faults[way] else "ok" for way in WORDS}
    return Result(ways, "; ".join(fault for fault in faults.values() if fault), seconds)


def _fault(way: str, answer: Any, lacks: tuple[str, ...]) -> str:
    if way in lacks:
        return ""
    if way.endswith("streamed") and isinstance(answer, list):
        if len(answer) < 2:
            return f"{way}: not streamed: {answer!r}"
        answer = "".join(answer)
    text = answer if isinstance(answer, str) else ""
    missing = [word for word in WORDS[way] if word not in text]
    return f"{way}: no {' and no '.join(map(repr, missing))} in {answer!r}" if missing else ""


def _command(client: Client) -> list[str]:
    program, environment = HERE / "programs" / client.program, client.environment
    if program.suffix == ".java":
        return ["java", str(program)]
    if program.suffix == ".mjs":  # which finds its modules beside itself
        return ["node", str(shutil.copy(program, environment.folder / program.name))]
    python = environment.folder / "bin" / "python" if isinstance(environment, Python) else sys.executable
    return [str(python), "-P", str(program)]  # -P: a program may have the name of its library


def _run(command: list[str], client: Client, home: Path) -> tuple[int | None, str, str]:
    path = os.pathsep.join([*map(str, client.environment.paths), os.environ.get("PATH", os.defpath)])
    variables = {
        "PATH": path, "HOME": str(home), "TMPDIR": str(home), "LANG": "C.UTF-8", "DO_NOT_TRACK": "1",
        "HTTP_PROXY": _NOWHERE, "HTTPS_PROXY": _NOWHERE, "NO_PROXY": "127.0.0.1,localhost",
    }  # fmt: skip
    with subprocess.Popen(
        command, cwd=home, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            output, errors = process.communicate(timeout=client.time_limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
            return None, output, errors
    return process.returncode, output, errors
