"""The program that listens on a port of this computer."""

import contextlib
from dataclasses import dataclass
from typing import Any

_ASK_S = 1.0
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # wildcard address: the address that a client uses
_UNKNOWN = "another program"


@dataclass(frozen=True, slots=True)
class PortHolder:
    """A program that listens. Unknown fields are None. `model` is what a model server serves."""

    program: str = _UNKNOWN
    pid: int | None = None
    model: str | None = None

    def __str__(self) -> str:
        known = [f"pid {self.pid}"] if self.pid is not None else []
        known += [self.model] if self.model else []
        return f"{self.program} ({', '.join(known)})" if known else self.program


def find_holder(address: str, port: int) -> PortHolder:
    """The program that listens on `port` of the IP address.

    The operating system gives the process, unless another user owns it. An HTTP server gives its name and its
    model.
    """
    process = _process(address, port)
    model_server = _model_server(address, port)
    return PortHolder(
        program=model_server.program if model_server.program != _UNKNOWN else process.program,
        pid=process.pid,
        model=model_server.model,
    )


def _process(address: str, port: int) -> PortHolder:
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or not connection.laddr or connection.pid is None:
                continue
            if connection.laddr.port == port and connection.laddr.ip in (address, *_WILDCARDS):
                return PortHolder(program=psutil.Process(connection.pid).name(), pid=connection.pid)
    return PortHolder()


def _model_server(address: str, port: int) -> PortHolder:
    """The name and model that an HTTP server gives: vram-llm at /, every OpenAI endpoint at /v1/models."""
    host = _WILDCARDS.get(address, address)
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    root = _json_of(f"{url}/")
    if isinstance(root, dict) and root.get("name") == "vram-llm":
        return PortHolder(program="vram-llm", model=root.get("model"))
    with contextlib.suppress(LookupError, TypeError):
        return PortHolder(model=str(_json_of(f"{url}/v1/models")["data"][0]["id"]))
    return PortHolder()


def _json_of(url: str) -> Any:
    """The JSON at `url`; None without an answer in JSON."""
    import httpx

    with contextlib.suppress(httpx.HTTPError, ValueError):
        return httpx.get(url, timeout=_ASK_S, trust_env=False).json()
    return None
