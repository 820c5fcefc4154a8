"""llama.cpp's RPC workers: run one, and list the devices of one.

A worker that does not speak the protocol makes llama.cpp abort, so `worker_facts` asks in a child process.
There is no authentication: loopback, or a tunnel.
"""

import os
import re
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vram_llm.errors import NotBuilt, WorkerUnreachable
from vram_llm.llama.worker_cache import WorkerCache
from vram_llm.machine.private_networks import crosses_network
from vram_llm.machine.ssh_tunnel import open_tunnel
from vram_llm.machine.types import Device, DeviceKind, Link, Source
from vram_llm.machine.worker_spec import WorkerSpec, is_loopback, split_endpoint, worker_at

MAX_SERVERS = 16  # GGML_RPC_MAX_SERVERS of ggml-rpc.h
_SAVED = re.compile(r"saved to '(.+)'$")  # rpc_server::set_tensor of ggml-rpc.cpp
_SILENT_INPUT_S = 60.0
_TIMEOUT_S = 30.0  # of which a busy computer may need several to start Python


@dataclass(frozen=True, slots=True)
class WorkerDevice:
    """One device of a worker, with the facts of the RPC protocol."""

    total_bytes: int
    free_bytes: int
    alignment_bytes: int


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """The devices of a worker, and the link to it as it is now; None if it could not be measured."""

    devices: tuple[WorkerDevice, ...]
    link: Link | None


def worker_facts(endpoint: str, *, measures_link: bool = True, timeout_s: float | None = None) -> WorkerFacts:
    """The facts of the worker at "host:port". Raises WorkerUnreachable, NotBuilt."""
    timeout_s = _TIMEOUT_S if timeout_s is None else timeout_s
    _check_listening(endpoint)
    ask = [sys.executable, "-m", "vram_llm.llama.measure.worker_facts", endpoint]
    ask += [] if measures_link else ["no-link"]
    try:
        answer = subprocess.run(ask, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise WorkerUnreachable(
            f"what listens at {endpoint} did not answer as an RPC worker within {timeout_s:.0f} s; "
            "it is none, or busy with another program: a worker serves one at a time"
        ) from error
    if answer.returncode == NotBuilt.exit_code:
        raise NotBuilt(answer.stderr.decode("utf-8", "replace").strip())
    if answer.returncode != 0:
        raise WorkerUnreachable(
            f"what listens at {endpoint} is not an RPC worker of this llama.cpp version; "
            f"start one there with `vram-llm worker`"
        )
    return msgspec.json.decode(answer.stdout, type=WorkerFacts)


def exposure_notes(workers: Sequence[WorkerSpec]) -> tuple[str, ...]:
    """A sentence on the workers that are reached in the clear. Raises WorkerUnreachable."""
    plain = [spec.address for spec in workers if spec.ssh is None and _is_in_the_clear(spec)]
    if not plain:
        return ()
    return (
        f"{', '.join(plain)}: llama.cpp's RPC has neither authentication nor encryption; whoever is on the "
        "way can read and change what is computed there. --ssh HOST makes a tunnel; WireGuard needs none",
    )


def _is_in_the_clear(spec: WorkerSpec) -> bool:
    return not is_loopback(spec.host) and crosses_network(*_check_listening(spec.address))


def _check_listening(endpoint: str) -> tuple[str, str]:
    """The addresses of this end and of the other end. Raises WorkerUnreachable if nobody listens there."""
    host, port = split_endpoint(endpoint)
    try:
        with socket.create_connection((host, port), timeout=3) as sock:
            return sock.getsockname()[0], sock.getpeername()[0]
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
    return worker_list(tuple(map(worker_at, endpoints)))


def worker_list(workers: tuple[WorkerSpec, ...]) -> tuple[Device, ...]:
    """The devices of all workers. Raises WorkerUnreachable, NotBuilt."""
    if len(workers) > MAX_SERVERS:
        raise WorkerUnreachable(f"{len(workers)} workers given; llama.cpp takes at most {MAX_SERVERS}")
    found: list[Device] = []
    for number, spec in enumerate(workers):
        if any(other.label == spec.label for other in workers[:number]):
            raise WorkerUnreachable(f"worker {spec.label} is given twice; name each worker once")
        endpoint = spec.address if spec.ssh is None else open_tunnel(spec).endpoint
        facts = worker_facts(endpoint)
        for index, device in enumerate(facts.devices):
            limit = spec.limit_bytes
            found.append(
                Device(
                    id=f"RPC{len(found)}",
                    name=f"worker {spec.label}" + (f" device {index}" if len(facts.devices) > 1 else ""),
                    kind=DeviceKind.RPC,
                    total_bytes=device.total_bytes,
                    free_bytes=device.free_bytes if limit is None else min(device.free_bytes, limit),
                    memory_source=Source.DRIVER if limit is None else Source.GIVEN,
                    alignment_bytes=device.alignment_bytes,
                    endpoint=endpoint,
                    tunnel=spec.tunnel,
                    endpoint_index=index,
                    link=facts.link,
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


def serve(
    endpoint: str,
    n_threads: int,
    cache: WorkerCache | None = None,
    on_note: Callable[[str], None] = lambda _text: None,
) -> None:
    """Run llama.cpp's own RPC server on this machine's devices (its GPUs, else its CPU). Does not return.

    `on_note` gets sentences about the cache.
    """
    from vram_llm.llama import bindings as b

    if b.rpc_start_server is None:
        raise NotBuilt("this llama.cpp was built without RPC; rebuild with `make setup` (-DGGML_RPC=ON)")
    handles = b.local_devices() or [b.dev_by_type(b.CPU_DEVICE_TYPE)]
    array = (b.Pointer * len(handles))(*handles)
    if cache is not None:
        b.listen_to_log(lambda line: _keep(cache, line, on_note))
    folder = None if cache is None else os.fsencode(cache.folder)
    b.rpc_start_server(endpoint.encode(), folder, n_threads, len(handles), array)


def _keep(cache: WorkerCache, line: str, on_note: Callable[[str], None]) -> None:
    """llama.cpp has written a file of the cache if it says so; the next command waits until this returns."""
    found = _SAVED.search(line)
    if found is not None and (note := cache.saved(Path(os.fsdecode(found[1])))) is not None:
        on_note(note)


def end_with_input() -> None:
    """End this process when standard input ends, or when nothing comes from it for a minute."""
    threading.Thread(target=_await_end_of_input, name="standard input", daemon=True).start()


def _await_end_of_input() -> None:
    while select.select([0], [], [], _SILENT_INPUT_S)[0]:
        if not os.read(0, 4096):
            break
    os._exit(0)
