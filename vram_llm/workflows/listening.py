"""Sockets that a server listens on while it runs."""

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

    from vram_llm.server.config import ServerConfig


def run_listening(
    main: "Callable[[list[socket.socket]], Coroutine[Any, Any, None]]",
    config: "ServerConfig",
    socks: "Sequence[socket.socket] | None" = None,
) -> None:
    """Listen at the address of `config`, run `main` on the sockets until it ends, and close them.

    `socks` are bound to that address; None: they are bound here. Raises PortInUse, KeyRequired, and the
    errors of `main`.
    """
    import asyncio
    import contextlib

    from vram_llm.server import run, sockets
    from vram_llm.server.host_check import check_exposure
    from vram_llm.server.short_slices import short_slices

    bound = list(socks) if socks is not None else sockets.bind_all(config.host, config.port)
    with contextlib.ExitStack() as stack, asyncio.Runner(loop_factory=run.new_event_loop) as runner:
        for sock in bound:
            stack.enter_context(sock)
        check_exposure(bound, config)
        sockets.start_listening(bound)
        stack.enter_context(short_slices())
        runner.run(main(bound))
