"""vram-llm worker: llama.cpp's own RPC server, for plans made on another machine."""

import os
import signal
from typing import TYPE_CHECKING

import click

from vram_llm.cli import terminal
from vram_llm.cli.option_types import ByteSizeType
from vram_llm.units import GIB, format_bytes

if TYPE_CHECKING:
    from vram_llm.llama.worker_cache import WorkerCache

_CACHE_BYTES = 32 * GIB


@click.command("worker")
@click.option(
    "--listen",
    "endpoint",
    default="127.0.0.1:50052",
    show_default=True,
    metavar="HOST:PORT",
    help="Address to listen on. Other than loopback and WireGuard's, it needs --insecure.",
)
@click.option("--threads", type=click.IntRange(1), help="Threads for the CPU.  [default: all cores]")
@click.option("--cache-size", "cache_bytes", type=ByteSizeType(), default=_CACHE_BYTES, metavar="SIZE", help=(
    "Disk space for weights, so that a load after a restart does not send them again; 0: none.  "
    f"[default: {format_bytes(_CACHE_BYTES)}]"
))  # fmt: skip
@click.option("--insecure", is_flag=True, help=(
    "Listen where other computers connect without a tunnel: the protocol has neither authentication nor "
    "encryption."
))  # fmt: skip
@click.option("--while-input", is_flag=True, help=(
    "End when standard input ends, or when it is silent for a minute: how `--ssh` keeps a worker."
))  # fmt: skip
@click.option("--ray", "ray_address", metavar="ADDRESS", help=(
    "Be a node of the Ray cluster at ADDRESS, for `serve --ray`, and no RPC worker; head: be its first node."
))  # fmt: skip
def command(
    endpoint: str,
    threads: int | None,
    cache_bytes: int,
    insecure: bool,
    while_input: bool,
    ray_address: str | None,
) -> None:
    """Lend this machine's GPUs, or its CPU if it has none, to `plan --rpc` and `serve --rpc` elsewhere."""
    if ray_address is not None:
        _become_node(ray_address)
    from vram_llm.llama import rpc
    from vram_llm.machine.host import read_host
    from vram_llm.machine.private_networks import is_private
    from vram_llm.machine.worker_spec import split_endpoint
    from vram_llm.server.sockets import bind

    host, port = split_endpoint(endpoint)
    if not insecure and not is_private(host):
        raise click.UsageError(
            f"whoever reaches {endpoint} can use this worker and read its memory, for llama.cpp's RPC has no "
            "authentication: listen on loopback and let the other computer use `--ssh`, listen on a "
            "WireGuard address, or let everybody in with --insecure"
        )
    bind(host, port, f"--listen {host}:{{port}}").close()  # llama.cpp would only print the error
    if not is_private(host):
        terminal.say(f"note: anyone who reaches {endpoint} can use this worker", err=True)
    cache = _cache(port, cache_bytes) if cache_bytes else None
    terminal.say(f"worker on {endpoint}; use it with --rpc {endpoint}; Ctrl+C ends it", err=True)
    for number in (signal.SIGINT, signal.SIGTERM):  # Python's handlers do not run inside llama.cpp's loop
        signal.signal(number, signal.SIG_DFL)
    if while_input:
        rpc.end_with_input()
    rpc.serve(f"{host}:{port}", threads or read_host().cores, cache, on_note=_note)


def _cache(port: int, limit_bytes: int) -> "WorkerCache | None":
    """The worker's cache, and a line about it; None if its folder cannot be used."""
    from vram_llm.llama.worker_cache import WorkerCache
    from vram_llm.model.header_cache import cache_folder

    folder = cache_folder() / "worker" / str(port)
    try:
        cache = WorkerCache(folder, limit_bytes)
    except OSError as error:
        _note(f"no weights are kept for the next load: {folder} cannot be used: {error.strerror or error}")
        return None
    terminal.say(
        f"cache {folder}: {format_bytes(cache.n_bytes)} of at most {format_bytes(limit_bytes)}", err=True
    )
    return cache


def _note(text: str) -> None:
    terminal.say(f"note: {text}", err=True)


def _become_node(address: str) -> None:
    """Run Ray in place of this process."""
    from vram_llm.workflows.ray_serving import node_command, own_resources

    command = node_command(address, own_resources())
    os.execv(command[0], command)
