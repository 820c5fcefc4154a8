"""A real sshd on the loopback, with keys and configuration in a folder of its own."""

import getpass
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.patience import PATIENCE_S, looks
from tests.workers import free_ports
from vram_llm.machine.ssh_tunnel import SSH_VARIABLE
from vram_llm.model.header_cache import CACHE_DIR_VARIABLE

_PLACES = ("/usr/sbin/sshd", "/usr/local/sbin/sshd", "/sbin/sshd")
_RUN = Path("/run/sshd")  # an empty folder that sshd wants if root runs it


def missing() -> str | None:
    """The reason why no sshd can be started here, or None."""
    if shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        return "there is no ssh client"
    return None if _sshd() else "sshd is not installed (Debian's openssh-server)"


@contextmanager
def running_sshd(folder: Path) -> Iterator[dict[str, str]]:
    """Environment for clients: `far` is this computer with vram-llm in its PATH, `bare` without it, `locked`
    refuses the client's key, `strange` has a key that the client does not know.
    """
    full, bare = free_ports(2)
    for name in ("host_key", "key", "other_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    shutil.copy(folder / "key.pub", folder / "authorized_keys")
    host_key = " ".join((folder / "host_key.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text("".join(f"[127.0.0.1]:{port} {host_key}\n" for port in (full, bare)))
    (folder / "sshd_config").write_text(_server_config(folder, full, bare))
    (folder / "ssh_config").write_text(_client_config(folder, full, bare))
    if os.geteuid() == 0:
        _RUN.mkdir(mode=0o755, exist_ok=True)
    sshd = _sshd()
    assert sshd is not None
    with (
        (folder / "sshd.log").open("wb") as output,
        subprocess.Popen([sshd, "-D", "-e", "-f", folder / "sshd_config"], stderr=output) as process,
    ):
        try:
            _await_listening(process, (full, bare))
            yield {**os.environ, SSH_VARIABLE: f"ssh -F {folder / 'ssh_config'}"}
        finally:
            process.terminate()


def _sshd() -> str | None:
    found = shutil.which("sshd")
    return found or next((place for place in _PLACES if Path(place).exists()), None)


def _server_config(folder: Path, full: int, bare: int) -> str:
    root = Path(__file__).parents[1]
    programs = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    cache = os.environ.get(CACHE_DIR_VARIABLE, str(folder / "cache"))
    return f"""
ListenAddress 127.0.0.1:{full}
ListenAddress 127.0.0.1:{bare}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
Match LocalPort {full}
    SetEnv PATH={programs} PYTHONPATH={root} HOME={folder} {CACHE_DIR_VARIABLE}={cache}
Match LocalPort {bare}
    SetEnv PATH=/usr/bin:/bin HOME={folder}
"""


def _client_config(folder: Path, full: int, bare: int) -> str:
    hosts = ((full, "far", "key", "known_hosts"), (bare, "bare", "key", "known_hosts"),
             (full, "locked", "other_key", "known_hosts"), (full, "strange", "key", "no_hosts"))  # fmt: skip
    return "".join(
        f"""Host {name}
    HostName 127.0.0.1
    Port {port}
    User {getpass.getuser()}
    IdentityFile {folder}/{key}
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {folder}/{known}
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
"""
        for port, name, key, known in hosts
    )


def _await_listening(process: "subprocess.Popen[bytes]", ports: tuple[int, ...]) -> None:
    left = set(ports)
    for _ in looks():
        assert process.poll() is None, "sshd has ended: sshd.log says why"
        for port in tuple(left):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), PATIENCE_S):
                left.discard(port)
        if not left:
            return
    raise AssertionError(f"sshd does not listen on {left}")
