"""POST /infill over the real engine, with a model that has tokens for gaps and one that has none."""

from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.inputs.test_infill import FIM, write
from tests.patience import PATIENCE_S
from tests.server.live import in_thread, listening_with
from vram_llm import demo

pytestmark = pytest.mark.process

BODY = {
    "input_prefix": "def f(x):\n",
    "input_suffix": "return y\n",
    "input_extra": [{"filename": "a.py", "text": "one two three " * 40}],
    "prompt": "    y",
    "n_predict": 6,
    "temperature": 0,
    "ignore_eos": True,
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, plan_on_cpu: PlanOnCpu) -> Iterator[httpx.Client]:
    path = write(tmp_path_factory.mktemp("fim"), tuple(FIM))
    plan = plan_on_cpu(path, n_ctx=4096, parallel=2)
    with (
        in_thread(listening_with(plan, "code")) as url,
        httpx.Client(base_url=url, timeout=PATIENCE_S) as client,
    ):
        yield client


def test_a_gap_is_filled_and_the_next_one_shares_its_files(client: httpx.Client) -> None:
    first = client.post("/infill", json=BODY).json()
    assert first["tokens_predicted"] == 6
    assert first["timings"]["cache_n"] == 0
    texts = ["myproject\n", "a.py\n", "filename\n", "f(x):\n", "return"]
    places = [first["prompt"].rindex(text) for text in texts]
    assert places == sorted(places)
    second = client.post("/infill", json={**BODY, "prompt": "    y ="}).json()
    assert second["timings"]["cache_n"] > second["tokens_evaluated"] * 0.8
    again = client.post("/infill", json={**BODY, "cache_prompt": False}).json()
    assert (again["content"], again["timings"]["cache_n"]) == (first["content"], 0)


def test_a_model_without_tokens_for_gaps(plan_on_cpu: PlanOnCpu) -> None:
    plan = plan_on_cpu(demo.path(), n_ctx=512)
    with in_thread(listening_with(plan, "demo")) as url:
        response = httpx.post(f"{url}/infill", json=BODY, timeout=PATIENCE_S)
    assert (response.status_code, response.json()["error"]["type"]) == (501, "not_supported_error")
