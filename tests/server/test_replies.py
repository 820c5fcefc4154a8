"""How tokens are counted."""

from vram_llm.engine.request import TokenEvent
from vram_llm.server.replies import UsageCounter


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
