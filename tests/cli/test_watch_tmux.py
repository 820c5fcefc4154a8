"""`watch` in real terminals of two sizes: three fake cards, and the real server that ends and comes back."""

import sys

import pytest

from tests.cli import tmux
from tests.cli.running import command, environment
from tests.cli.tmux import needs_tmux
from tests.server.live import serving
from tests.workers import free_ports

pytestmark = [pytest.mark.process, needs_tmux]
FAKE = [sys.executable, "-m", "tests.cli.watched", "watch"]


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (200, 50)])
def test_three_cards(columns: int, lines: int) -> None:
    apart = {**environment(columns), "VRAM_LLM_PORT": str(*free_ports(1))}  # where nothing listens
    with tmux.running(FAKE, apart, columns, lines) as terminal:
        terminal.await_screen("> GPU0 RTX 3090")
        first = terminal.await_screen("Quit")
        rows = [row for row in first.splitlines() if row.strip()]
        assert len(rows) <= lines
        for text in ("this computer", "GPU1 RTX 3060", "GPU2 RTX 4080", "PCIe 3@4x", "x4 slot", "Quit"):
            assert text in first
        terminal.press("Down")
        terminal.await_screen("> GPU1 RTX 3060")
        terminal.press("?")
        terminal.await_screen("choose a device")
        terminal.press("q")  # closes the help
        terminal.press("Down")
        terminal.await_screen("> GPU2 RTX 4080")
        terminal.resize(60, 24)
        terminal.await_screen("> GPU2 RTX 4080")
        terminal.press("F10")
        assert terminal.await_end() == 0


def test_a_server_that_ends_and_comes_back() -> None:
    with serving("demo") as first:
        first.await_health()
        address = first.url.removeprefix("http://")
        line = command("watch", address, "--interval", "0.2")
        with tmux.running(line, environment(), columns=80, lines=24) as terminal:
            terminal.await_screen(rf"^{address}  demo .* ready")
            terminal.await_screen(r"running 0  waiting 0")
            assert first.end() == 0
            terminal.await_screen("no answer for .*: no server answers at")
            terminal.resize(200, 50)
            with serving("demo", port=first.port):
                terminal.await_screen(rf"^{address}  demo .* ready")
            terminal.press("q")
            assert terminal.await_end() == 0
