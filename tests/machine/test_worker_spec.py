"""Workers as options and files name them."""

import pytest

from vram_llm.errors import WorkerUnreachable
from vram_llm.machine.worker_spec import WorkerSpec, is_loopback, worker_at, worker_over_ssh
from vram_llm.units import GIB


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("127.0.0.1:50052", WorkerSpec()),
        ("gpu-box:1", WorkerSpec(host="gpu-box", port=1)),
        ("10.0.0.2:50052@8GiB", WorkerSpec(host="10.0.0.2", limit_bytes=8 * GIB)),
    ],
)
def test_workers_by_address(text: str, spec: WorkerSpec) -> None:
    assert worker_at(text) == spec


@pytest.mark.parametrize(
    ("text", "spec", "label"),
    [
        ("box", WorkerSpec(ssh="box"), "box:50052 over SSH"),
        ("me@box", WorkerSpec(ssh="me@box"), "me@box:50052 over SSH"),
        ("me@box:7", WorkerSpec(ssh="me@box", port=7), "me@box:7 over SSH"),
        ("me@box:7@8GiB", WorkerSpec(ssh="me@box", port=7, limit_bytes=8 * GIB), "me@box:7 over SSH"),
        ("me@box@8GiB", WorkerSpec(ssh="me@box", limit_bytes=8 * GIB), "me@box:50052 over SSH"),
        ("me@10.1.1.2", WorkerSpec(ssh="me@10.1.1.2"), "me@10.1.1.2:50052 over SSH"),
        ("a@10.1.1.2@1GiB", WorkerSpec(ssh="a@10.1.1.2", limit_bytes=GIB), "a@10.1.1.2:50052 over SSH"),
    ],
)  # fmt: skip
def test_workers_over_ssh(text: str, spec: WorkerSpec, label: str) -> None:
    assert worker_over_ssh(text) == spec
    assert spec.label == label


@pytest.mark.parametrize("text", ["", ":50052", "-oProxyCommand=x", "a b", "box:0", "box:99999", "-w@8GiB"])
def test_no_destination_for_ssh(text: str) -> None:
    """A text that the ssh client would read as an option is refused too."""
    with pytest.raises(WorkerUnreachable, match="is not a computer for the ssh client"):
        worker_over_ssh(text)


@pytest.mark.parametrize("limit", ["lots", "-1GiB", "1.2.3GiB"])
def test_a_bad_limit(limit: str) -> None:
    with pytest.raises(WorkerUnreachable, match=r"the memory limit of worker .* is not a size"):
        worker_at(f"10.0.0.2:50052@{limit}")


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "a.localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.2", "box", "127.0.0.1.example.org")))
