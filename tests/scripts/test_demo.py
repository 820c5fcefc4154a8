import socket

import pytest

from scripts import demo
from scripts.demo_error import PORT_IN_USE, DemoError
from scripts.demo_questions import ask
from tests.server.live import Serving
from tests.workers import free_ports


def test_a_port_in_use_names_another() -> None:
    (port,) = free_ports(1)
    with socket.socket() as other:
        other.bind((demo.HOST, port))
        other.listen()
        with pytest.raises(DemoError, match=f"PORT={port + 1}") as caught:
            demo.check_port(port)
    assert caught.value.exit_code == PORT_IN_USE


def test_a_number_that_is_no_port_is_refused() -> None:
    with pytest.raises(DemoError, match="PORT=8081"):
        demo.check_port(99999)


def test_a_free_port_passes() -> None:
    demo.check_port(*free_ports(1))


@pytest.mark.process
def test_what_is_asked_is_answered_as_a_person_would_accept(
    demo_server: Serving, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(f"{demo_server.url}/v1")
    said = capsys.readouterr().out
    assert "The KV cache keeps the keys and values" in said
    assert "thinks: This is about quantisation." in said
    assert 'calls get_weather({"city": "Paris"})' in said
    assert "It is 18 degrees and sunny in Paris." in said
    assert said.count("tokens per second") == 2


def test_no_server_is_a_sentence() -> None:
    (port,) = free_ports(1)
    with pytest.raises(DemoError, match="the server did not answer"):
        ask(f"http://127.0.0.1:{port}/v1")
