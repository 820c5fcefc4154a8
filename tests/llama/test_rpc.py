"""Questions to RPC workers, and to servers that are none."""

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import psutil
import pytest

from tests.patience import PATIENCE_S
from tests.workers import free_ports, running_workers
from vram_llm.errors import WorkerUnreachable
from vram_llm.llama import rpc
from vram_llm.machine.types import DeviceKind, Source
from vram_llm.machine.worker_spec import split_endpoint
from vram_llm.units import GIB, MIB

pytestmark = pytest.mark.process


def test_a_workers_facts(workers: tuple[str, ...]) -> None:
    """A CPU worker reports the whole host's memory as its own."""
    facts = rpc.worker_facts(workers[0])
    (device,) = facts.devices
    assert device.total_bytes == psutil.virtual_memory().total
    assert 64 * MIB < device.free_bytes <= device.total_bytes
    assert device.alignment_bytes in (32, 64, 128)
    assert facts.link is not None
    assert {facts.link.latency_s.source, facts.link.bytes_per_s.source} == {Source.MEASURED}
    assert 0 < facts.link.latency_s.value < PATIENCE_S
    assert facts.link.bytes_per_s.value > MIB


def test_devices_in_the_order_given(workers: tuple[str, ...]) -> None:
    endpoints = (workers[2], f"{workers[0]}@1GiB", f"{workers[1]}@900TiB")
    found = rpc.devices(endpoints)
    assert [device.id for device in found] == ["RPC0", "RPC1", "RPC2"]
    assert [device.endpoint for device in found] == [workers[2], workers[0], workers[1]]
    assert {device.kind for device in found} == {DeviceKind.RPC}
    assert {device.endpoint_index for device in found} == {0}
    unlimited, limited, generous = found
    assert (unlimited.memory_source, limited.memory_source) == (Source.DRIVER, Source.GIVEN)
    assert limited.free_bytes == GIB
    assert generous.free_bytes == pytest.approx(unlimited.free_bytes, rel=0.5)  # never more than is there


def test_nothing_listens() -> None:
    (port,) = free_ports(1)
    with pytest.raises(WorkerUnreachable, match=rf"no worker answers at 127.0.0.1:{port} \(.*refused"):
        rpc.worker_facts(f"127.0.0.1:{port}")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "a" * 64, "127.0.0.1.7"])
def test_no_such_host(host: str) -> None:
    with pytest.raises(WorkerUnreachable, match=rf"no worker answers at {host}:50052"):
        rpc.worker_facts(f"{host}:50052")


class Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def http_port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_an_http_server_is_no_worker(http_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "_TIMEOUT_S", 1.5)  # it waits for a line that never ends
    with pytest.raises(WorkerUnreachable, match=rf"what listens at 127.0.0.1:{http_port} .*RPC worker"):
        rpc.worker_facts(f"127.0.0.1:{http_port}")


def _answering(listener: socket.socket, answer: bytes) -> None:
    """Send `answer` to everyone who says something, and hang up, until the listener is closed."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            if connection.recv(1):
                connection.sendall(answer)


@pytest.mark.parametrize("answer", [b"", b"\xff" * 4096])
def test_a_server_of_another_kind_is_no_worker(answer: bytes) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=_answering, args=(listener, answer))
        thread.start()
        try:
            with pytest.raises(WorkerUnreachable, match=rf"what listens at 127.0.0.1:{port} .*RPC worker"):
                rpc.worker_facts(f"127.0.0.1:{port}")
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_silent_socket_is_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "_TIMEOUT_S", 1.0)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        endpoint = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(WorkerUnreachable, match=r"did not answer .* within 1 s"):
            rpc.worker_facts(endpoint)
    left = [child for child in psutil.Process().children() if endpoint in _command(child)]
    assert left == []


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_worker_is_given_once(workers: tuple[str, ...]) -> None:
    with pytest.raises(WorkerUnreachable, match="given twice"):
        rpc.devices((workers[0], f"{workers[0]}@1GiB"))


def test_no_more_workers_than_llama_cpp_takes() -> None:
    with pytest.raises(WorkerUnreachable, match=r"17 workers given; llama\.cpp takes at most 16"):
        rpc.devices(tuple(f"127.0.0.1:{port}" for port in range(50001, 50018)))


@pytest.mark.parametrize("limit", ["", "lots", "1GiB@2GiB", "-1GiB", "1.2.3GiB", "8XB"])
def test_a_bad_limit(workers: tuple[str, ...], limit: str) -> None:
    with pytest.raises(WorkerUnreachable, match=r"the memory limit of worker .* is not a size"):
        rpc.devices((f"{workers[0]}@{limit}",))


@pytest.mark.parametrize(
    "endpoint",
    ["", ":", "localhost", "localhost:", ":50052", "localhost:0", "localhost:65536", "localhost:x", "a:-1"],
)
def test_not_an_address(endpoint: str) -> None:
    with pytest.raises(WorkerUnreachable, match="is not an address"):
        rpc.devices((endpoint,))


@pytest.mark.parametrize(
    ("endpoint", "default_port", "parts"),
    [
        ("127.0.0.1:50052", None, ("127.0.0.1", 50052)),
        ("gpu-box:1", None, ("gpu-box", 1)),
        ("gpu-box", 50052, ("gpu-box", 50052)),
        ("gpu-box:7", 50052, ("gpu-box", 7)),
    ],
)
def test_addresses(endpoint: str, default_port: int | None, parts: tuple[str, int]) -> None:
    assert split_endpoint(endpoint, default_port) == parts


def test_connect_to_a_worker_that_is_gone() -> None:
    """In this process, where llama.cpp's own way to say no would be to abort."""
    with running_workers(1) as (endpoint,):
        pass
    with pytest.raises(WorkerUnreachable, match=rf"no worker answers at {endpoint}"):
        rpc.connect(endpoint)
