"""How tokens are counted, drafted ones too."""

import msgspec

from vram_llm.engine.request import TokenEvent
from vram_llm.server.replies import UsageCounter
from vram_llm.server.timings import ChoiceClock


def _last(prompt: int, completion: int, cached: int) -> TokenEvent:
    return TokenEvent(id="r", prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached)


def test_a_prompt_counts_once_and_is_cached_only_if_no_choice_computed_it() -> None:
    """Two prompts with two choices each. The first was new; the second one's beginning was cached."""
    tally = UsageCounter(n=2)
    for index, last in enumerate([_last(10, 3, 9), _last(10, 4, 0), _last(20, 5, 12), _last(20, 6, 19)]):
        tally.add(index, last)
    usage = tally.usage()
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (30, 18, 48)
    assert usage.prompt_tokens_details.cached_tokens == 12


def test_drafts_are_counted_where_there_were_some() -> None:
    counter = UsageCounter(n=2)
    counter.add(0, _last(10, 5, 0))
    plain = counter.usage().model_dump()["completion_tokens_details"]
    assert plain == {"reasoning_tokens": 0}
    counter.add(1, msgspec.structs.replace(_last(10, 5, 0), drafted_tokens=7, accepted_tokens=4))
    details = counter.usage().completion_tokens_details
    assert (details.accepted_prediction_tokens, details.rejected_prediction_tokens) == (4, 3)


def test_timings_have_drafts_under_the_names_of_llama_server() -> None:
    clock = ChoiceClock()
    clock.observe(_last(10, 5, 0))
    assert "draft_n" not in clock.timings()
    clock.observe(msgspec.structs.replace(_last(10, 5, 0), drafted_tokens=7, accepted_tokens=4))
    assert (clock.timings()["draft_n"], clock.timings()["draft_n_accepted"]) == (7, 4)


def test_timings_of_an_answer_without_a_rate_are_numbers() -> None:
    clock = ChoiceClock()
    clock.observe(_last(10, 0, 0))
    timings = clock.timings()
    assert (timings["predicted_per_second"], timings["predicted_per_token_ms"]) == (0.0, 0.0)
