"""From the command line to an OpenAI SDK client, with nothing faked."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import gguf
import httpx
import openai
import psutil
import pytest

from tests.cli.running import environment, run
from tests.patience import PATIENCE_S, looks
from tests.server.live import serving
from tools.random_model import write_llama
from vram_llm.server.keys_file import KeyScope, add_key

pytestmark = pytest.mark.process

F32 = gguf.GGMLQuantizationType.F32


def test_a_draft_model_from_the_command_line_on(tmp_path: Path) -> None:
    """The same answer, the memory of both as planned, and a stream that is left in the middle."""
    model = write_llama(tmp_path / "model.gguf", n_ff=(256,) * 6, quant=F32)
    exact = ("--n-ctx", "2048", "--flash-attn", "off", "--kv-type", "f32")  # rounding changes no token
    with serving(model, *exact) as served:
        served.await_health()
        alone = served.chat("Hello", temperature=0)
    with serving(model, *exact, "--draft", str(model), "--no-mmap", "--verbose") as served:
        served.await_health()
        assert served.chat("Hello", temperature=0) == alone
        stream = served.client.completions.create(model="", prompt="Hello", max_tokens=1000, stream=True)
        next(iter(stream))
        stream.close()
        assert served.chat("Hello", temperature=0) == alone
        assert served.end() == 0
        assert "as planned on every device, to the byte: weights, context, compute, draft" in served.said()
        assert "Traceback" not in served.said()


def test_the_demo_model_from_start_to_end() -> None:
    with serving() as served:
        seen = served.await_health()
        assert set(seen) <= {0, 503, 200}
        assert [model.id for model in served.client.models.list()] == ["demo"]
        answer = served.chat("What is a tensor split?", temperature=0)
        assert answer
        assert answer == served.chat("What is a tensor split?", temperature=0)
        children = served.children()
        assert served.engine() in children
        assert served.end(signal.SIGINT) == 0
        assert not any(process.is_running() for process in children)
        assert "no model named: serving the built-in one, demo" in served.said()
        assert "Traceback" not in served.said()


def test_three_workers_hold_what_the_plan_says(workers: tuple[str, ...], tmp_path: Path) -> None:
    model = write_llama(tmp_path / "uneven.gguf", n_ff=[512, 512, *[128] * 9])
    rpc = [part for endpoint in workers for part in ("--rpc", f"{endpoint}@2GiB")]
    rpc += ["--n-ctx", "1024", "--parallel", "4", "--objective", "balance"]
    told = run("plan", model, *rpc, "--json")
    assert told.returncode == 0, told.stderr
    plan = json.loads(told.stdout)
    assert len(plan["placement"]["device_order"]) == 3
    with serving(model, "--smart-split", "--verbose", *rpc) as served:
        served.await_health()
        assert served.chat("hello")
        assert served.end() == 0
        rows = dict(re.findall(r"^(RPC\d)(.*)$", served.said(), re.MULTILINE))
        assert set(rows) == set(plan["placement"]["device_order"])
        for cells in rows.values():
            weights, context, *_ = re.split(r"\s{2,}", cells.strip())
            assert weights.startswith("= ")
            assert context.startswith("= ")


def test_two_workers_share_every_layer(workers: tuple[str, ...], tmp_path: Path) -> None:
    """A tensor split answers as whole layers do, says what it goes without, and saves a slot all the same."""
    model = write_llama(
        tmp_path / "wide.gguf", n_embd=256, n_ff=(512,) * 3, n_head=16, n_head_kv=16, quant=F32
    )
    more = [part for endpoint in workers[:2] for part in ("--rpc", f"{endpoint}@2GiB")]
    more += ["--n-ctx", "2048", "--parallel", "2", "--backend-sampling", "on", "--slots-ram", "64MiB"]
    more += ["--slot-save-path", str(tmp_path)]
    answers = {}
    for mode in ("layer", "tensor"):
        with serving(model, "--split-mode", mode, *more) as served:
            served.await_health()
            answers[mode] = served.chat("hello", temperature=0)
            assert served.chat("hello again", temperature=0.9, seed=3)
            for action in ("save", "restore"):
                url = f"{served.url}/slots/0?action={action}"
                assert httpx.post(url, json={"filename": "slot.bin"}, timeout=PATIENCE_S).status_code == 200
            assert served.chat("hello", temperature=0) == answers[mode]
            assert served.end() == 0
            said = served.said()
    assert answers["tensor"] == answers["layer"] != ""
    assert re.search(r"\d% of every layer on RPC0", said)
    assert "with a tensor split the host samples, and copies no idle conversation to itself" in said


def test_a_saved_plan_is_served(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "tiny.gguf")
    saved = tmp_path / "plan.json"
    saved.write_text(run("plan", model, "--n-ctx", "512", "--parallel", "2", "--json").stdout)
    with serving("--plan", saved) as served:
        served.await_health()
        assert served.chat("hello")
        for n_words, refusal in (
            (450, "the context holds 512"),
            (3000, "the context's 512 tokens hold 2,560 bytes"),
        ):
            with pytest.raises(openai.BadRequestError, match=refusal) as caught:
                served.chat("word " * n_words)
            assert caught.value.code == "context_length_exceeded"


def test_the_api_outlives_its_engine_and_ends_after_a_stream(tmp_path: Path) -> None:
    """The engine is killed; the server is ended by a signal while a stream is in flight."""
    patient = ("--drain-timeout", str(PATIENCE_S))  # ten seconds are too few on a busy machine
    with serving(write_llama(tmp_path / "tiny.gguf"), "--n-ctx", "4096", *patient) as served:
        served.await_health()
        engine = served.engine()
        stream = served.client.completions.create(
            model="tiny", prompt="on and on", max_tokens=3000, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(openai.APIError, match="engine process died"):
            for _ in stream:
                pass
        served.await_health()
        assert served.chat("still there?")
        stream = served.client.completions.create(
            model="tiny", prompt="hello", max_tokens=12, stream=True, extra_body={"ignore_eos": True}
        )
        chunks = iter(stream)
        next(chunks)
        served.process.send_signal(signal.SIGTERM)
        reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
        assert reasons[-1] == "length"
        assert served.process.wait(PATIENCE_S) == 0


def test_keys_are_asked_for(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# Ann's\nfirst\n\nsecond # Bob's\n")
    own = tmp_path / "own"
    own.write_text("secret\n")
    options = ("--api-key", f"@{own}", "--api-key-file", str(keys), "--alias", "gpt-4o")
    with serving(write_llama(tmp_path / "tiny.gguf"), *options) as served:
        served.await_health()
        for wrong in ("none", "# Ann's", "second # Bob's"):
            with pytest.raises(openai.AuthenticationError):
                served.client.with_options(api_key=wrong).models.list()
        for key in ("secret", "first", "second"):
            cards = served.client.with_options(api_key=key).models.list().data
            assert [card.id for card in cards] == ["tiny", "gpt-4o"]
        assert served.end() == 0
        assert "`ps`" not in served.said()


def test_a_file_of_keys_is_read_again(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    add_key(keys, "ann", [KeyScope.INFERENCE])
    with serving(write_llama(tmp_path / "tiny.gguf"), "--keys-file", keys) as served:
        served.await_health()
        client = served.client.with_options(api_key=add_key(keys, "bob", [KeyScope.INFERENCE]))
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
        served.process.send_signal(signal.SIGHUP)
        for _ in looks():
            with contextlib.suppress(openai.AuthenticationError):
                assert client.models.list().data[0].id == "tiny"
                break
        else:
            raise AssertionError("the key is not known")
        assert served.end() == 0
        assert "was read again: 2 keys" in served.said()


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_busy_engine_ends_with_a_killed_server(tmp_path: Path) -> None:
    with serving(write_llama(tmp_path / "tiny.gguf")) as served:
        served.await_health()
        engines = served.children()
        for engine in engines:
            engine.suspend()  # it looks at no socket
        served.process.kill()
        for _ in looks():
            if not any(engine.is_running() and engine.status() != psutil.STATUS_ZOMBIE for engine in engines):
                break
        else:
            raise AssertionError(f"{engines} are left behind")
        assert engines


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the command openssl")
def test_https_with_a_certificate_that_is_renewed(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def renew() -> str:
        new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
        name = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
        subprocess.run(
            ["openssl", *new, *name, "-out", certificate, "-keyout", key], check=True, capture_output=True
        )
        return certificate.read_text()

    first = renew()
    options = ("--ssl-certfile", certificate, "--ssl-keyfile", key)
    with serving(write_llama(tmp_path / "tiny.gguf"), *options) as served:
        url = served.url.replace("http:", "https:")
        trust = ssl.create_default_context(cadata=first)
        with httpx.Client(base_url=url, timeout=PATIENCE_S, verify=trust, trust_env=False) as client:
            for _ in looks():
                with contextlib.suppress(httpx.TransportError):
                    if client.get("/health").status_code == 200:
                        break
            body = {"prompt": "x", "max_tokens": 2}
            assert client.post("/v1/completions", json=body).status_code == 200
            certificate.write_text("damaged")
            served.process.send_signal(signal.SIGHUP)
            assert client.get("/health").status_code == 200
            second, place = renew(), ("127.0.0.1", served.port)
            assert ssl.get_server_certificate(place).split() == first.split()
            served.process.send_signal(signal.SIGHUP)
            for _ in looks():
                if ssl.get_server_certificate(place).split() == second.split():
                    break
            else:
                raise AssertionError("the new certificate is not used")
        asked = run(
            "chat",
            url,
            "Hello",
            "--max-tokens",
            "2",
            env={**environment(), "SSL_CERT_FILE": str(certificate)},
        )
        assert asked.returncode == 0, asked.stderr
        assert served.end() == 0
        assert f"{url}/v1  key: any" in served.said()
        assert "nothing changes: the certificate" in served.said()


def test_pages_names_and_nonsense_from_elsewhere(tmp_path: Path) -> None:
    """Options allow pages and names; a number that no wire carries is refused; and half a request does
    not keep the server from its end.
    """
    options = ("--cors-origin", "https://chat.example", "--allowed-host", "gpu.lan")
    with serving(write_llama(tmp_path / "tiny.gguf"), *options) as served:
        served.await_health()
        with httpx.Client(base_url=served.url, timeout=PATIENCE_S) as client:
            allowed = client.get("/health", headers={"origin": "https://chat.example"})
            assert allowed.headers["access-control-allow-origin"] == "https://chat.example"
            assert client.get("/health", headers={"host": "gpu.lan"}).status_code == 200
            assert client.get("/health", headers={"host": "evil.example"}).status_code == 403
        with pytest.raises(openai.BadRequestError, match="max_tokens"):
            served.client.completions.create(model="tiny", prompt="x", max_tokens=10**30)
        assert served.chat("hello")
        with socket.create_connection(("127.0.0.1", served.port)) as half:
            half.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            assert served.end() == 0
