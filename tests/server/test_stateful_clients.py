"""Some sequences of what clients do, always the same; `python -m bench.soak --stateful` tries many more."""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.conftest import PlanOnCpu
from tests.server.live import in_thread
from tests.server.stateful_clients import PARALLEL, Clients, target

pytestmark = pytest.mark.process


def test_nothing_is_left_of_any_client(plan_on_cpu: PlanOnCpu) -> None:
    with in_thread(target(plan_on_cpu(n_ctx=4096, parallel=PARALLEL))) as server:

        class Here(Clients):
            pass

        Here.server = server
        run_state_machine_as_test(
            Here,
            settings=settings(
                max_examples=20,
                stateful_step_count=15,
                deadline=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
