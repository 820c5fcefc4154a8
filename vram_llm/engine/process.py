"""Start an engine process, and read the error it ended with."""

import asyncio
import logging
import socket
import sys

from vram_llm.engine.heartbeat import Heartbeat
from vram_llm.errors import VramLLMError
from vram_llm.stderr_reason import environment


async def start_process(
    sock: socket.socket, heartbeat: Heartbeat, log: logging.Logger
) -> asyncio.subprocess.Process:
    """An engine process with `sock`, one end of a socket pair, and the level of `log`. Raises OSError."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "vram_llm.engine.worker", str(sock.fileno()), str(log.getEffectiveLevel()),
        str(heartbeat.fd),
        pass_fds=[sock.fileno(), heartbeat.fd],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
        start_new_session=True,  # only the server handles Ctrl+C
    )  # fmt: skip


def error_of(message: str, exit_code: int) -> VramLLMError:
    """The engine's error, made again from its exit code."""
    pending: list[type[VramLLMError]] = [VramLLMError]
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        if kind.exit_code == exit_code != VramLLMError.exit_code:
            return kind(message)
    return VramLLMError(message)
