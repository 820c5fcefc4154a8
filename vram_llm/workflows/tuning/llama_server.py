"""llama-server's own choice of a placement, --fit, measured by its own timings."""

import concurrent.futures
import json
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from vram_llm.errors import NotBuilt, VramLLMError
from vram_llm.planner.tuning.scores import MeasuredTimes, RequestShape
from vram_llm.stderr_reason import last_words
from vram_llm.workflows.tuning.results import TuneRow

if TYPE_CHECKING:
    from vram_llm.planner.types import Plan

NAME = "llama-server --fit"
PROGRAM = "llama-server"
_START_S = 300.0  # a large model from a slow disk
_LEAST_ROUNDS, _MOST_ROUNDS, _LEAST_ANSWER = 3, 20, 16


class _ServerFailed(VramLLMError):
    """llama-server ended, or answered with something else than text and timings."""


def found_llama_server() -> str:
    """llama-server's program: on PATH, or the one that `python -m scripts.build_llama_server` has built.

    Raises NotBuilt.
    """
    if (program := shutil.which(PROGRAM)) is not None:
        return program
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    built = [each for each in cache.glob(f"vram-llm/programs/*/{PROGRAM}") if os.access(each, os.X_OK)]
    if not built:
        raise NotBuilt(
            f"there is no {PROGRAM} on PATH to compare with; install llama.cpp's programs, build them with "
            "`python -m scripts.build_llama_server`, or leave --compare out"
        )
    return str(max(built, key=lambda each: each.stat().st_mtime))


def command(program: str, plan: "Plan", port: int) -> list[str]:
    """The command line with the plan's model, context, devices and threads; --fit chooses the placement."""
    context = plan.context
    endpoints = list(dict.fromkeys(device.endpoint for device in plan.devices if device.endpoint))
    line = [program, "--model", plan.model.path, "--host", "127.0.0.1", "--port", str(port), "--fit", "on"]
    line += ["--rpc", ",".join(endpoints)] if endpoints else []
    line += ["--ctx-size", str(context.n_ctx), "--parallel", str(context.parallel)]
    line += ["--kv-unified"] if context.kv_unified else []
    line += ["--cache-type-k", context.kv_type_k, "--cache-type-v", context.kv_type_v]
    return [*line, "--threads", str(context.n_threads), "--cache-ram", "0"]


def measured_row(
    program: str, plan: "Plan", shape: RequestShape, prompt_tokens: int, depth: int, seconds: float
) -> TuneRow:
    """The row of llama-server: its own timings of prompts and of tokens, which include sampling.

    A server that does not start, or ends, is a row with the reason.
    """
    times: list[MeasuredTimes] = []
    try:
        with tempfile.TemporaryFile() as log, _running(program, plan, log) as port:
            ends = time.monotonic() + seconds
            for number in range(_MOST_ROUNDS):
                prompt = _round(port, plan, number, prompt_tokens, 1, 1)[0]
                answers = _round(port, plan, number + _MOST_ROUNDS, depth, shape.streams, _LEAST_ANSWER)
                times.append(
                    MeasuredTimes(
                        step_s=statistics.median(each["predicted_per_token_ms"] for each in answers) / 1e3,
                        prompt_token_s=prompt["prompt_per_token_ms"] / 1e3,
                    )
                )
                if len(times) >= _LEAST_ROUNDS and time.monotonic() > ends:
                    break
    except (_ServerFailed, OSError, KeyError, ValueError) as error:
        return TuneRow(name=NAME, failed=str(error) or type(error).__name__)
    step_s = statistics.median(each.step_s for each in times)
    return TuneRow(
        name=NAME,
        tokens_per_s=shape.streams / step_s,
        prompt_tokens_per_s=1 / statistics.median(each.prompt_token_s for each in times),
        request_s=statistics.median(map(shape.seconds, times)),
        n_measurements=1,
    )


@contextmanager
def _running(program: str, plan: "Plan", log: IO[bytes]) -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    process = subprocess.Popen(command(program, plan, port), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        ends = time.monotonic() + _START_S
        while not _is_healthy(port):
            if process.poll() is not None:
                raise _ServerFailed(f"llama-server ended: {last_words(log)}")
            if time.monotonic() > ends:
                raise _ServerFailed(f"llama-server was not ready after {_START_S:.0f} s")
            time.sleep(0.2)  # it says nothing when it is ready
        yield port
    finally:
        process.kill()
        process.wait()


def _is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _round(
    port: int, plan: "Plan", number: int, n_prompt: int, streams: int, n_answer: int
) -> list[dict[str, float]]:
    """The timings of `streams` requests at once; no two prompts begin alike."""
    with concurrent.futures.ThreadPoolExecutor(streams) as pool:
        asked = [pool.submit(_ask, port, 31 * number + i, n_prompt, n_answer) for i in range(streams)]
        return [each.result() for each in asked]


def _ask(port: int, seed: int, n_prompt: int, n_answer: int) -> dict[str, float]:
    body = {
        "prompt": [(seed + 1 + 7 * i) % 250 + 3 for i in range(max(n_prompt, 1))],
        "n_predict": n_answer,
        "ignore_eos": True,
        "cache_prompt": False,
        "temperature": 0,
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_START_S) as reply:
            answer: dict[str, Any] = json.load(reply)
    except urllib.error.HTTPError as error:
        raise _ServerFailed(
            f"llama-server answers {error.code}: {error.read(300).decode(errors='replace')}"
        ) from None
    timings: dict[str, float] = answer["timings"]
    return timings
