"""vram-llm watch: cards, load and queue of a server, or the cards of this computer, in the terminal."""

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import click

from vram_llm.cli.key_options import METAVAR, VARIABLE, read_key

if TYPE_CHECKING:
    from vram_llm.cli.watching.snapshot import Snapshot
    from vram_llm.cli.watching.sources import SnapshotSource

_PORT_VARIABLE = "VRAM_LLM_PORT"  # of `serve --port`


@click.command("watch")
@click.argument("url", required=False)
@click.option(
    "--api-key",
    envvar=VARIABLE,
    metavar=METAVAR,
    callback=read_key,
    help="API key of the server, or @ and a file with it. Without this option $VRAM_LLM_API_KEY is read.",
)
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two readings.",
)
@click.option("--once", is_flag=True, help="Print one reading and end, as without a terminal.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one reading as JSON and end; with --once or alone."
)
def command(url: str | None, api_key: str | None, interval: float, once: bool, as_json: bool) -> None:
    """Show a running server in the terminal: each device with its history, tokens a second, queue, KV use.

    URL is the server; HOST:PORT is enough. Without URL: the server at 127.0.0.1:8080 ($VRAM_LLM_PORT is
    another port), or, while none answers there, the NVIDIA cards and the memory of this computer. Warnings
    say what is wrong and what to do.

    Keys are nvtop's: arrows choose a device, s sorts the programs, F2 has settings, ? has help, q ends.
    """
    from vram_llm.cli.watching.sources import snapshot_source
    from vram_llm.server.config import ServerConfig

    default = ServerConfig()
    port = os.environ.get(_PORT_VARIABLE) or default.port
    watched = snapshot_source(url, api_key, f"{default.host}:{port}")
    if as_json:
        from vram_llm.cli.json_document import document

        click.echo(document(asyncio.run(_read_once(watched))))
    elif once or not sys.stdout.isatty():
        from vram_llm.cli.watching.once_table import print_once

        print_once(asyncio.run(_read_once(watched)))
    else:
        from vram_llm.cli.watching.app import WatchApp

        WatchApp(watched, interval).run()


async def _read_once(watched: "SnapshotSource") -> "Snapshot":
    """One reading. Raises ServerUnreachable, RequestError."""
    try:
        return await watched.read()
    finally:
        await watched.close()
