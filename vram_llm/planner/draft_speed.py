"""The predicted gain by a model's own MTP head, at an assumed acceptance rate."""

from dataclasses import replace

from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.mtp import EXPECTED_DRAFTED, most_drafted
from vram_llm.planner.speed import Predictor
from vram_llm.planner.types import Plan, Workload

WORTH_DRAFTING = 1.1  # gain from which on `--draft auto` takes the head
_ACCEPTANCE_RATE = (
    0.7  # of a draft token whose predecessors were accepted; assumed, as by the engine at first
)


def drafting_gain(profile: ModelProfile, machine: Machine, workload: Workload, plan: Plan) -> float:
    """Tokens per second of one stream with the head, where `plan` puts it, against without; 1 if none pays.

    A step with n drafted tokens computes n + 1 rows of the model, after n runs of the head; seven of ten
    drafts are assumed to be accepted. The engine measures that, and drafts less where they are not.
    """
    n_most = plan.context.n_mtp or most_drafted(profile)
    predictor = Predictor(profile, replace(plan.context, n_mtp=n_most), machine, workload)
    drafts_s = predictor.step_s(plan.placement, 1, drafts=True) - predictor.step_s(plan.placement, 1)
    draft_s = drafts_s / min(n_most, EXPECTED_DRAFTED)
    rates = [
        sum(_ACCEPTANCE_RATE**i for i in range(n + 1))
        / (predictor.step_s(plan.placement, n + 1) + n * draft_s)
        for n in range(n_most + 1)
    ]
    return max(rates) / rates[0]


def gain_text(gain: float) -> str:
    """The gain as a note says it."""
    return f"{gain:.2f} times as fast if 7 in 10 drafts are accepted (estimated)"
