"""Where snapshots come from: a server, this computer, or whichever of them there is."""

import asyncio
import dataclasses
from typing import Protocol

from vram_llm.cli.server_address import is_of_this_computer, root_url
from vram_llm.cli.watching.snapshot import Snapshot, of_machine, of_server
from vram_llm.errors import RequestError, ServerUnreachable
from vram_llm.machine.device_readings import DeviceReader
from vram_llm.machine.host import read_host_memory

_ASK_S = 5.0
_FORBIDDEN = (401, 403)
_LOOK_EVERY = 5  # readings of this computer between two looks for a server on it


class SnapshotSource(Protocol):
    """Gives a snapshot at each call."""

    async def read(self) -> Snapshot:
        """The state now. Raises ServerUnreachable, RequestError."""

    async def close(self) -> None:
        """Close connections."""


class ServerSource:
    """A server's /status, at "HOST:PORT" or a URL. Its key, if it has keys, needs the scope "metrics"."""

    def __init__(self, address: str, api_key: str | None) -> None:
        import httpx

        self.url = root_url(address)
        self._swapped_bytes: int | None = None
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=_ASK_S,
            verify=httpx.create_ssl_context() if self.url.startswith("https:") else True,
            trust_env=not is_of_this_computer(self.url),
        )

    async def read(self) -> Snapshot:
        """The server's state now. Raises ServerUnreachable, RequestError."""
        import httpx

        try:
            reply = await self._client.get(f"{self.url}/status")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = str(error) or type(error).__name__
            raise ServerUnreachable(
                f"no server answers at {self.url}: {why}; start one with `vram-llm serve`"
            ) from None
        if reply.status_code in _FORBIDDEN:
            raise RequestError(
                f"{self.url} wants an API key with the scope metrics: --api-key @FILE, or $VRAM_LLM_API_KEY"
            )
        if reply.is_error:
            raise ServerUnreachable(
                f"{self.url} has no /status (it answers {reply.status_code}): not vram-llm"
            )
        found = of_server(self.url, reply.content, self._swapped_bytes)
        self._swapped_bytes = None if found.host is None else found.host.swap_used_bytes
        return found

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()


class MachineSource:
    """This computer's cards and memory."""

    def __init__(self, reader: DeviceReader | None = None) -> None:
        self._reader = reader or DeviceReader()
        self._swapped_bytes: int | None = None

    async def read(self) -> Snapshot:
        """The state now. The driver is asked in a thread, since it takes up to 50 ms a card."""
        return await asyncio.to_thread(self._read)

    async def close(self) -> None:
        """Nothing is open."""

    def _read(self) -> Snapshot:
        host = read_host_memory(None)
        found = of_machine(self._reader.read(), host, self._swapped_bytes)
        self._swapped_bytes = host.swap_used_bytes
        return found


class ServerOrMachine:
    """A server on this computer as long as one answers, else the computer itself."""

    def __init__(self, server: SnapshotSource, machine: SnapshotSource) -> None:
        self._server, self._machine = server, machine
        self._n_without = 0  # readings since a server has answered
        self._note = ""

    async def read(self) -> Snapshot:
        """The state now. A server that appears is found after some readings."""
        if self._n_without % _LOOK_EVERY == 0:
            try:
                found = await self._server.read()
            except (ServerUnreachable, RequestError) as error:
                self._note = str(error)
            else:
                self._n_without = 0
                return found
        self._n_without += 1
        return dataclasses.replace(await self._machine.read(), note=self._note)

    async def close(self) -> None:
        """Close both."""
        await self._server.close()
        await self._machine.close()


def snapshot_source(address: str | None, api_key: str | None, default_address: str) -> SnapshotSource:
    """The source for an address; without one, the server at the default address or this computer."""
    if address is not None:
        return ServerSource(address, api_key)
    return ServerOrMachine(ServerSource(default_address, api_key), MachineSource())
