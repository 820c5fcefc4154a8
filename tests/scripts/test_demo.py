import socket

import pytest

from scripts import demo
from scripts.demo_error import PORT_IN_USE, DemoError
from scripts.demo_questions import ask
from tests.test_journeys import serving


def test_a_port_in_use_names_another(unused_tcp_port: int) -> None:
    with socket.socket() as other:
        other.bind((demo.HOST, unused_tcp_port))
        other.listen()
        with pytest.raises(DemoError, match=f"PORT={unused_tcp_port + 1}") as caught:
            demo.check_port(unused_tcp_port)
    assert caught.value.exit_code == PORT_IN_USE


def test_a_number_that_is_no_port_is_refused() -> None:
    with pytest.raises(DemoError, match="PORT=8081"):
        demo.check_port(99999)


def test_a_free_port_passes(unused_tcp_port: int) -> None:
    demo.check_port(unused_tcp_port)


def test_what_is_asked_is_answered_as_a_person_would_accept(capsys: pytest.CaptureFixture[str]) -> None:
    with serving("demo") as served:
        served.await_health()
        ask(f"{served.url}/v1")
    said = capsys.readouterr().out
    assert "The KV cache keeps the keys and values" in said
    assert "thinks: This is about quantisation." in said
    assert 'calls get_weather({"city": "Paris"})' in said
    assert "It is 18 degrees and sunny in Paris." in said
    assert said.count("tokens per second") == 2


def test_no_server_is_a_sentence(unused_tcp_port: int) -> None:
    with pytest.raises(DemoError, match="the server did not answer"):
        ask(f"http://127.0.0.1:{unused_tcp_port}/v1")
