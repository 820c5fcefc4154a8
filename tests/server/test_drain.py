"""SIGTERM: /health turns to 503, requests in flight finish, a second signal ends them."""

import signal
from pathlib import Path

import httpx
import pytest

from tests.patience import PATIENCE_S
from tests.server.live import serving

pytestmark = pytest.mark.process


def _ask(n_tokens: int) -> dict[str, object]:
    return {"prompt": [1, 50, 60], "max_tokens": n_tokens, "ignore_eos": True, "stream": True}


def test_sigterm_lets_requests_finish(tiny_model: Path) -> None:
    with (
        serving(tiny_model, "--n-ctx", "65536", "--parallel", "2", "--drain-timeout", "3600") as served,
        httpx.Client(base_url=served.url, timeout=PATIENCE_S) as client,
    ):
        served.await_health()
        with (
            client.stream("POST", "/v1/completions", json=_ask(60_000)) as endless,
            client.stream("POST", "/v1/completions", json=_ask(200)) as short,
        ):
            lines = endless.iter_lines()
            next(lines)
            served.process.send_signal(signal.SIGTERM)
            for _ in lines:  # until the signal has arrived: the server answers all the time
                if (health := client.get("/health")).status_code != 200:
                    break
            assert health.status_code == 503
            assert "shutting down" in health.json()["error"]["message"]
            assert client.post("/v1/completions", json={"prompt": "hi"}).status_code == 503
            whole = short.read().decode()
            assert '"finish_reason":"length"' in whole
            assert whole.endswith("data: [DONE]\n\n")
            served.process.send_signal(signal.SIGTERM)
            *_, last = (line for line in lines if line)
            assert '"code":"engine_died"' in last
        assert served.process.wait(PATIENCE_S) == 0
        assert "waiting up to 3600 s for" in served.said()
