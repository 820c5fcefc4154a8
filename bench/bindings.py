"""The servers that the bindings bring: `llama_cpp.server`, and their source distribution's example server.

Their packages that this project lacks are installed once into a folder of the user's cache.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.build_args import plan_build
from scripts.build_facts import read_facts
from scripts.build_llama_server import fetch_source, programs_folder

HEALTH = "/v1/models"
_PACKAGES = (
    "pydantic-settings",
    "python-dotenv",
    "sse-starlette",
    "starlette-context",
    "safetensors",
    "websockets",
)


def environment() -> dict[str, str]:
    """Environment variables that lead both servers to their packages."""
    return {**os.environ, "PYTHONPATH": str(_folder() / "packages")}


def module_server(model: Path, port: int, *, n_ctx: int, parallel: int) -> list[str]:
    """The command line of `llama_cpp.server` with its defaults: one request at a time, whatever `parallel`.

    A new request interrupts the running one and shortens its answer.
    """
    threads = str(os.cpu_count() or 1)
    return [
        sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--port", str(port), "--n_ctx",
        str(n_ctx), "--n_threads", threads, "--n_threads_batch", threads,
    ]  # fmt: skip


def patient_module_server(model: Path, port: int, *, n_ctx: int, parallel: int) -> list[str]:
    """The same server with a queue for new requests."""
    return [
        *module_server(model, port, n_ctx=n_ctx, parallel=parallel),
        "--interrupt_requests",
        "false",
    ]


def example_server(model: Path, port: int, *, n_ctx: int, parallel: int) -> list[str]:
    """The command line of the example server: same context, sequences and threads, otherwise its defaults."""
    threads = os.cpu_count() or 1
    options = {
        "path": str(model), "alias": "bench", "n_ctx": n_ctx, "n_seq_max": parallel, "threads": threads,
        "threads_batch": threads,
    }  # fmt: skip
    config = model.with_suffix(".json")
    config.write_text(json.dumps({"server": {"host": "127.0.0.1", "port": port}, "model": options}))
    return [sys.executable, str(_folder() / "server.py"), "-C", str(config)]


def _folder() -> Path:
    facts = read_facts()
    folder = programs_folder(facts, plan_build(facts, os.environ)) / "bindings"
    script, packages = folder / "server.py", folder / "packages"
    if not script.exists():
        folder.mkdir(parents=True, exist_ok=True)
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(packages)]
        subprocess.run([*install, *_PACKAGES], check=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            source = fetch_source(Path(scratch), folder / "fetch.log").parents[1]
            (source / "examples" / "server" / "server.py").replace(script)
    return folder
