import socket

import pytest

from scripts import demo


def test_a_port_in_use_names_another(unused_tcp_port: int) -> None:
    with socket.socket() as other:
        other.bind((demo.HOST, unused_tcp_port))
        other.listen()
        with pytest.raises(demo.DemoError, match=f"PORT={unused_tcp_port + 1}") as caught:
            demo.check_port(unused_tcp_port)
    assert caught.value.exit_code == demo.PORT_IN_USE


def test_a_number_that_is_no_port_is_refused() -> None:
    with pytest.raises(demo.DemoError, match="PORT=8081"):
        demo.check_port(99999)


def test_a_free_port_passes(unused_tcp_port: int) -> None:
    demo.check_port(unused_tcp_port)
