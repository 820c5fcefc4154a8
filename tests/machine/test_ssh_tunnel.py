"""Tunnels to real RPC workers through a real sshd: made, kept, ended, and refused with a reason."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cli.running import command, run
from tests.patience import looks
from tests.server.live import Serving
from tests.sshd import missing, running_sshd
from tests.workers import free_ports, running_workers
from vram_llm.errors import WorkerUnreachable
from vram_llm.llama import rpc
from vram_llm.machine import ssh_tunnel
from vram_llm.machine.calibration_store import device_key
from vram_llm.machine.ssh_tunnel import SSH_VARIABLE, FarEnd, SshTunnel, far_end
from vram_llm.machine.worker_spec import WorkerSpec, worker_over_ssh

pytestmark = [pytest.mark.process, pytest.mark.skipif(missing() is not None, reason=missing() or "")]


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a client of this module's sshd, also of this process."""
    with running_sshd(tmp_path_factory.mktemp("sshd")) as found, pytest.MonkeyPatch.context() as patch:
        patch.setenv(SSH_VARIABLE, found[SSH_VARIABLE])
        yield found
        ssh_tunnel.close_tunnels()


@pytest.fixture(scope="module")
def port(env: dict[str, str]) -> Iterator[int]:
    """The port of a worker on the far computer."""
    with running_workers(1) as (endpoint,):
        yield int(endpoint.rpartition(":")[2])


def await_far_end(tunnel: SshTunnel, wanted: FarEnd) -> None:
    for _ in looks():
        if far_end(tunnel.port) is wanted:
            return
    raise AssertionError((tunnel.endpoint, far_end(tunnel.port)))


def refusal(spec: WorkerSpec) -> str:
    with pytest.raises(WorkerUnreachable) as caught:
        SshTunnel(spec).open()
    return str(caught.value)


def test_the_devices_of_a_worker_over_ssh(port: int) -> None:
    """They are known by the far address: the near one may change."""
    spec = worker_over_ssh(f"far:{port}@1GiB")
    (device,) = rpc.worker_list((spec,))
    assert device.tunnel == device_key(device) == f"far:{port}"
    assert device.endpoint != f"127.0.0.1:{port}"
    assert device.name == f"worker far:{port} over SSH"
    assert device.free_bytes == 1024**3
    assert device.link is not None
    (again,) = rpc.worker_list((spec,))
    assert again.endpoint == device.endpoint  # the same tunnel


def test_a_tunnel_that_drops_is_made_again_on_the_same_port(port: int) -> None:
    tunnel = ssh_tunnel.open_tunnel(worker_over_ssh(f"far:{port}"))
    before = tunnel._process
    assert before is not None
    before.kill()
    for _ in looks():
        if tunnel._process is not before and far_end(tunnel.port) is FarEnd.WORKER:
            break
    else:
        raise AssertionError("the tunnel is not made again")


def test_a_plan_over_ssh_and_its_check(
    env: dict[str, str], port: int, tiny_model: Path, tmp_path: Path
) -> None:
    """As processes: each makes and ends a tunnel of its own, and a saved plan makes it again."""
    ssh_tunnel.close_tunnels()  # a worker serves one program at a time, but a tunnel alone holds none
    wish = ("plan", tiny_model, "--ssh", f"far:{port}@4GiB", "--objective", "balance")
    done = run(*wish, "--json", env=env)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert [device["tunnel"] for device in plan["devices"] if device["endpoint"]] == [f"far:{port}"]
    emitted = run(*wish, "--emit", "llama-server", env=env)
    near = plan["devices"][0]["endpoint"]
    assert f"--rpc {near}" in emitted.stdout
    assert f"ssh -N -L {near}:127.0.0.1:{port} far" in emitted.stderr
    saved = tmp_path / "plan.json"
    saved.write_text(done.stdout)
    checked = run("plan", "--check", saved, env=env)
    assert checked.returncode == 0, checked.stderr


def test_nobody_listens_there(env: dict[str, str]) -> None:
    (free,) = free_ports(1)
    message = refusal(worker_over_ssh(f"far:{free}"))
    assert f"the tunnel to far is open, and no worker listens on 127.0.0.1:{free} there" in message


def test_a_worker_is_started_and_ends_with_the_tunnel(env: dict[str, str]) -> None:
    (free,) = free_ports(1)
    tunnel = SshTunnel(worker_over_ssh(f"far:{free}", start=True))
    tunnel.open()
    assert far_end(free) is FarEnd.WORKER
    tunnel.close()
    for _ in looks():
        if far_end(free) is FarEnd.CLOSED:
            return
    raise AssertionError("the worker is still there")


def test_a_worker_that_runs_is_used(port: int) -> None:
    tunnel = SshTunnel(worker_over_ssh(f"far:{port}", start=True))
    tunnel.open()
    assert not tunnel._starts_worker
    tunnel.close()
    assert far_end(port) is FarEnd.WORKER


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("bare", "bare has no program vram-llm in ~/.local/bin or in the PATH of its shell"),
        ("locked", "Permission denied (publickey)"),
        ("strange", "Host key verification failed"),
        ("no-such-host.invalid", "ssh cannot make the tunnel to no-such-host.invalid: "),
    ],
)
def test_a_tunnel_that_cannot_be_made(env: dict[str, str], host: str, message: str) -> None:
    (free,) = free_ports(1)
    assert message in refusal(worker_over_ssh(f"{host}:{free}", start=True))


def test_without_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SSH_VARIABLE, "no-such-ssh -F none")
    assert "there is no program no-such-ssh for the tunnel to far" in refusal(worker_over_ssh("far"))


_OPEN = """
import sys, time
from vram_llm.machine.ssh_tunnel import open_tunnel
from vram_llm.machine.worker_spec import worker_over_ssh
tunnel = open_tunnel(worker_over_ssh(sys.argv[1]))
print(tunnel.port, tunnel._process.pid, flush=True)
time.sleep(1000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_tunnel_ends_with_a_program_that_is_killed(env: dict[str, str], port: int) -> None:
    opens = [sys.executable, "-c", _OPEN, f"far:{port}"]
    with subprocess.Popen(opens, env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        near, ssh = map(int, process.stdout.readline().split())
        assert far_end(near) is FarEnd.WORKER
        os.kill(process.pid, signal.SIGKILL)
    for _ in looks():
        if far_end(near) is FarEnd.CLOSED and not psutil.pid_exists(ssh):
            return
    raise AssertionError("ssh still runs")


def test_a_server_outlives_its_tunnel(env: dict[str, str], tiny_model: Path) -> None:
    """The worker is started over SSH. When ssh is killed, both are started again, and the server answers."""
    far, near = free_ports(2)
    wish = ("--ssh", f"far:{far}@4GiB", "--start-workers", "--objective", "balance", "--n-ctx", "512")
    with subprocess.Popen(
        command("serve", tiny_model, *wish, "--port", str(near)),
        env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        served = Serving(process, near)
        try:
            served.await_health()
            assert served.chat("one")
            (ssh,) = (child for child in served.children() if child.name() == "ssh")
            ssh.kill()
            assert served.chat("two")
            assert served.end() == 0
        finally:
            served.client.close()
            if process.poll() is None:
                process.kill()
    for _ in looks():
        if far_end(far) is FarEnd.CLOSED:
            return
    raise AssertionError(f"the worker is still there\n{served.said()}")
