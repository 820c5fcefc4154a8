"""Run llama-server's router with the file of `plan --emit llama-server-presets`, and ask each model.

    python -m bench.emitted_fleet [--programs FOLDER]

Three small models are pinned to a worker each; two of them are apart. llama-server and the workers
(ggml-rpc-server) are those of `python -m scripts.build_llama_server`. One table: the model asked for, the
status of the answer, and the models that are loaded then, of which there must never be more than fit. Exits
with 1 if an answer fails, or if more are loaded.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from scripts.build_llama_server import built_programs
from tests.workers import free_ports
from tools.random_model import write_llama

_PATIENCE_S = 120.0
_FLEET = """\
n-ctx: 512
reserve-mib: 0
parallel: 2
models:
  - {name: chat, source: FOLDER/chat.gguf, temperature: 0.1, preload: true, pin: 0}
  - {name: coder, source: FOLDER/coder.gguf, aliases: [code], pin: 1}
  - {name: embed, source: FOLDER/embed.gguf, pooling: mean, pin: 2}
groups:
  - {models: [coder, embed], apart: true}
"""
_TEXT = {"prompt": [1, 2, 3], "max_tokens": 4}
_ASKED: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("chat", "/v1/completions", _TEXT),
    ("code", "/v1/completions", _TEXT),
    ("embed", "/v1/embeddings", {"input": [1, 2, 3]}),
    ("chat", "/v1/completions", _TEXT),
)


def main() -> int:
    """Run the router, and print the table. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--programs", type=Path, help="folder of llama-server and ggml-rpc-server")
    programs = parser.parse_args().programs or built_programs()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, (port, *workers) = Path(name), free_ports(4)
        for worker in workers:
            command = [str(programs / "ggml-rpc-server"), "-H", "127.0.0.1", "-p", str(worker), "-t", "1"]
            stack.enter_context(_process(command, folder / f"{worker}.log"))
        presets = _presets(folder, workers)
        most = re.search(r"--models-max (\d+)", presets.read_text())
        assert most is not None
        command = [str(programs / "llama-server"), "--models-preset", str(presets), "--models-max", most[1]]
        stack.enter_context(_process([*command, "--port", str(port)], folder / "router.log"))
        return _ask(f"http://127.0.0.1:{port}", int(most[1]))


def _presets(folder: Path, workers: list[int]) -> Path:
    """The emitted file."""
    for name in ("chat", "coder", "embed"):
        write_llama(folder / f"{name}.gguf", n_ff=(512,) * 4, n_embd=128)
    addresses = ", ".join(f'"127.0.0.1:{port}@512MiB"' for port in workers)
    config, presets = folder / "fleet.yaml", folder / "presets.ini"
    config.write_text(f"{_FLEET.replace('FOLDER', str(folder))}workers: [{addresses}]\n")
    command = [
        sys.executable,
        "-m",
        "vram_llm",
        "plan",
        "--config",
        str(config),
        "--emit",
        "llama-server-presets",
    ]
    presets.write_bytes(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return presets


def _ask(url: str, most: int) -> int:
    print("| asked for | status | loaded then | at most |\n|---|---|---|---|")
    is_good = True
    with httpx.Client(base_url=url, timeout=_PATIENCE_S) as client:
        _await(client)
        for model, path, body in _ASKED:
            status = client.post(path, json={"model": model, **body}).status_code
            loaded = [
                one["id"]
                for one in client.get("/models").json()["data"]
                if one["status"]["value"] == "loaded"
            ]
            is_good &= status == 200 and len(loaded) <= most
            print(f"| {model} | {status} | {', '.join(loaded)} | {most} |", flush=True)
    return int(not is_good)


def _await(client: httpx.Client) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)  # between two looks
    raise TimeoutError("llama-server does not answer")


@contextmanager
def _process(command: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as process:
        try:
            yield
        finally:
            process.terminate()


if __name__ == "__main__":
    sys.exit(main())
