"""RPC workers as a user names them: by an address, or by the computer that an SSH tunnel leads to."""

import ipaddress
from dataclasses import dataclass
from functools import lru_cache

from vram_llm.errors import WorkerUnreachable
from vram_llm.units import parse_bytes

DEFAULT_PORT = 50052
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """A worker of a plan. It listens at `host`:`port`, as its own computer sees them if `ssh` is given."""

    host: str = _LOOPBACK
    port: int = DEFAULT_PORT
    ssh: str | None = None  # destination for the ssh client: "box", "me@box", an alias; None: no tunnel
    limit_bytes: int | None = None  # of each of its devices that a plan may use; None: all
    start: bool = False  # start `vram-llm worker` there while the tunnel is open

    @property
    def address(self) -> str:
        """ "host:port" of the worker, on its own computer if there is a tunnel."""
        return f"{self.host}:{self.port}"

    @property
    def label(self) -> str:
        """The worker's name in plans and measurements: "10.0.0.2:50052", "me@box:50052 over SSH"."""
        if self.ssh is None:
            return self.address
        far = str(self.port) if self.host == _LOOPBACK else self.address
        return f"{self.ssh}:{far} over SSH"

    @property
    def tunnel(self) -> str | None:
        """The value of --ssh that names it, without a limit; None for a worker without a tunnel."""
        return None if self.ssh is None else f"{self.ssh}:{self.port}"


def split_endpoint(endpoint: str, default_port: int | None = None) -> tuple[str, int]:
    """("host", port) of "host:port". Raises WorkerUnreachable for any other text."""
    host, colon, port = endpoint.rpartition(":")
    if not colon and default_port is not None:
        host, port = endpoint, str(default_port)
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise WorkerUnreachable(f"{endpoint!r} is not an address; write it like 127.0.0.1:50052")
    return host, int(port)


def worker_at(text: str) -> WorkerSpec:
    """The worker of --rpc's "host:port" or "host:port@8GiB". Raises WorkerUnreachable."""
    address, at, limit = text.partition("@")
    host, port = split_endpoint(address)
    return WorkerSpec(host=host, port=port, limit_bytes=_limit(text, limit) if at else None)


def worker_over_ssh(text: str, *, start: bool = False) -> WorkerSpec:
    """The worker of --ssh's "box", "me@box:50052" or "me@box@8GiB". Raises WorkerUnreachable."""
    destination, at, limit = text.rpartition("@")
    limit_bytes = None
    if at and limit[:1].isdigit():
        try:
            limit_bytes = parse_bytes(limit)
        except ValueError:
            destination = text  # the host's name begins with a digit
    else:
        destination = text
    host, colon, port = destination.rpartition(":")
    if not colon or not port.isdigit():
        host, port = destination, str(DEFAULT_PORT)
    if not host or host.startswith("-") or any(c.isspace() for c in host) or not 0 < int(port) < 65536:
        raise WorkerUnreachable(
            f"{text!r} is not a computer for the ssh client; write it like me@gpu-box, with the worker's "
            "port there as in me@gpu-box:50052"
        )
    return WorkerSpec(ssh=host, port=int(port), limit_bytes=limit_bytes, start=start)


@lru_cache(maxsize=64)  # asked with the host name of each request
def is_loopback(host: str) -> bool:
    """Whether a name or address can only mean this computer."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _limit(text: str, limit: str) -> int:
    try:
        return parse_bytes(limit)
    except ValueError as error:
        raise WorkerUnreachable(f"the memory limit of worker {text!r}: {error}") from error
