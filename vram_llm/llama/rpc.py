"""llama.cpp's RPC workers: run one, and list the devices of one.

A worker that does not speak the protocol makes llama.cpp abort, so `worker_devices` asks in a child process.
There is no authentication: loopback, or a tunnel.
"""

import socket
import subprocess
import sys
from dataclasses import dataclass

import msgspec

from vram_llm.errors import NotBuilt, VramLLMError, WorkerUnreachable
from vram_llm.machine.types import Device, DeviceKind, Source

MAX_SERVERS = 16  # GGML_RPC_MAX_SERVERS of ggml-rpc.h
_TIMEOUT_S = 30.0  # of which a busy computer may need several to start Python


@dataclass(frozen=True, slots=True)
class WorkerDevice:
    """One device of a worker, with the facts of the RPC protocol."""

    total_bytes: int
    free_bytes: int
    alignment_bytes: int


def split_endpoint(endpoint: str, default_port: int | None = None) -> tuple[str, int]:
    """("host", port) of "host:port". Raises WorkerUnreachable for any other text."""
    host, colon, port = endpoint.rpartition(":")
    if not colon and default_port is not None:
        host, port = endpoint, str(default_port)
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise WorkerUnreachable(f"{endpoint!r} is not an address; write it like 127.0.0.1:50052")
    return host, int(port)


def worker_devices(endpoint: str) -> tuple[WorkerDevice, ...]:
    """The devices of the worker at "host:port". Raises WorkerUnreachable, NotBuilt."""
    _check_listening(endpoint)
    ask = [sys.executable, "-m", "vram_llm.llama.rpc", endpoint]
    try:
        answer = subprocess.run(ask, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise WorkerUnreachable(
            f"what listens at {endpoint} did not answer as an RPC worker within {_TIMEOUT_S:.0f} s; "
            "it is none, or busy with another program: a worker serves one at a time"
        ) from error
    if answer.returncode == NotBuilt.exit_code:
        raise NotBuilt(answer.stderr.decode("utf-8", "replace").strip())
    if answer.returncode != 0:
        raise WorkerUnreachable(
            f"what listens at {endpoint} is not an RPC worker of this llama.cpp version; "
            f"start one there with `vram-llm worker`"
        )
    return msgspec.json.decode(answer.stdout, type=tuple[WorkerDevice, ...])


def _check_listening(endpoint: str) -> None:
    host, port = split_endpoint(endpoint)
    try:
        socket.create_connection((host, port), timeout=3).close()
    except (OSError, UnicodeError) as error:  # UnicodeError: no host can have this name
        reason = getattr(error, "strerror", None) or str(error)
        raise WorkerUnreachable(
            f"no worker answers at {endpoint} ({reason}); start one there with "
            f"`vram-llm worker --listen {endpoint}`"
        ) from error


def devices(endpoints: tuple[str, ...]) -> tuple[Device, ...]:
    """Devices of every "host:port" or "host:port@8GiB" (a limit on the memory used there).

    A CPU worker reports its whole host's memory as its own, so several on one machine need the limit.
    """
    from vram_llm.units import parse_bytes

    if len(endpoints) > MAX_SERVERS:
        raise WorkerUnreachable(f"{len(endpoints)} workers given; llama.cpp takes at most {MAX_SERVERS}")
    found: list[Device] = []
    for text in endpoints:
        endpoint, at, limit = text.partition("@")
        if any(device.endpoint == endpoint for device in found):
            raise WorkerUnreachable(f"worker {endpoint} is given twice; each --rpc names another worker")
        try:
            limit_bytes = parse_bytes(limit) if at else None
        except ValueError as error:
            raise WorkerUnreachable(f"the memory limit of worker {text!r}: {error}") from error
        workers = worker_devices(endpoint)
        for index, device in enumerate(workers):
            free = device.free_bytes if limit_bytes is None else min(device.free_bytes, limit_bytes)
            found.append(
                Device(
                    id=f"RPC{len(found)}",
                    name=f"worker {endpoint}" + (f" device {index}" if len(workers) > 1 else ""),
                    kind=DeviceKind.RPC,
                    total_bytes=device.total_bytes,
                    free_bytes=free,
                    memory_source=Source.DRIVER if limit_bytes is None else Source.GIVEN,
                    alignment_bytes=device.alignment_bytes,
                    endpoint=endpoint,
                    endpoint_index=index,
                )
            )
    return tuple(found)


def connect(endpoint: str) -> list[int]:
    """This process's ggml handles of a worker's devices. Raises WorkerUnreachable, NotBuilt."""
    from vram_llm.llama import bindings as b

    if b.rpc_add_server is None:
        raise NotBuilt("this llama.cpp was built without RPC; rebuild with `make setup` (-DGGML_RPC=ON)")
    _check_listening(endpoint)  # llama.cpp aborts if no server listens
    registry = b.rpc_add_server(endpoint.encode())
    if not registry:
        raise WorkerUnreachable(f"no worker answers at {endpoint}")
    return [b.reg_dev_get(registry, i) for i in range(b.reg_dev_count(registry))]


def serve(endpoint: str, n_threads: int, cache_dir: str | None = None) -> None:
    """Run llama.cpp's own RPC server on this machine's devices (its GPUs, else its CPU). Does not return."""
    from vram_llm.llama import bindings as b

    if b.rpc_start_server is None:
        raise NotBuilt("this llama.cpp was built without RPC; rebuild with `make setup` (-DGGML_RPC=ON)")
    handles = b.local_devices() or [b.dev_by_type(b.CPU_DEVICE_TYPE)]
    array = (b.Pointer * len(handles))(*handles)
    b.rpc_start_server(
        endpoint.encode(), cache_dir.encode() if cache_dir else None, n_threads, len(handles), array
    )


def _worker_devices_here(endpoint: str) -> tuple[WorkerDevice, ...]:
    from vram_llm.llama import bindings as b

    found = []
    for handle in connect(endpoint):
        props = b.props_of(handle)
        found.append(
            WorkerDevice(
                total_bytes=props.memory_total,
                free_bytes=props.memory_free,
                alignment_bytes=b.buft_alignment(b.dev_buffer_type(handle)),
            )
        )
    return tuple(found)


if __name__ == "__main__":
    try:
        sys.stdout.buffer.write(msgspec.json.encode(_worker_devices_here(sys.argv[1])))
    except VramLLMError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
