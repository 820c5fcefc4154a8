"""vram-llm worker: llama.cpp's own RPC server, for plans made on another machine."""

import signal

import click

from vram_llm.cli import terminal


@click.command("worker")
@click.option(
    "--listen",
    "endpoint",
    default="127.0.0.1:50052",
    show_default=True,
    metavar="HOST:PORT",
    help="Address to listen on. There is no authentication: use loopback or a tunnel.",
)
@click.option("--threads", type=click.IntRange(1), help="Threads for the CPU.  [default: all cores]")
def command(endpoint: str, threads: int | None) -> None:
    """Lend this machine's GPUs, or its CPU if it has none, to `plan --rpc` and `serve --rpc` elsewhere."""
    from vram_llm.llama import rpc
    from vram_llm.machine.host import read_host
    from vram_llm.server.sockets import bind

    host, port = rpc.split_endpoint(endpoint)
    bind(host, port, f"--listen {host}:{{port}}").close()  # llama.cpp would only print the error
    if host not in ("127.0.0.1", "localhost", "::1"):
        terminal.say(
            f"note: anyone who reaches {endpoint} can use this worker; there is no authentication", err=True
        )
    terminal.say(f"worker on {endpoint}; use it with --rpc {endpoint}; Ctrl+C ends it", err=True)
    for number in (signal.SIGINT, signal.SIGTERM):  # Python's handlers do not run inside llama.cpp's loop
        signal.signal(number, signal.SIG_DFL)
    rpc.serve(f"{host}:{port}", threads or read_host().cores)
