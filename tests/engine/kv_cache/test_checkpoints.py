"""The positions at which states are saved."""

import pytest

from vram_llm.engine.kv_cache.checkpoints import checkpoint_positions


@pytest.mark.parametrize(
    ("n_prompt", "branch", "expected"),
    [
        (1, 0, []),
        (2, 0, [1]),
        (65, 0, [64]),
        (66, 0, [1, 65]),
        (1000, 0, [487, 743, 871, 935, 999]),
        (1000, 600, [487, 600, 743, 871, 935, 999]),
        (1000, 999, [487, 743, 871, 935, 999]),
    ],
)
def test_positions(n_prompt: int, branch: int, expected: list[int]) -> None:
    assert checkpoint_positions(n_prompt, branch) == expected


@pytest.mark.parametrize("n_prompt", [200, 2000, 100_000])
def test_a_prompt_computes_no_more_again_than_it_has_new(n_prompt: int) -> None:
    """A later prompt may differ anywhere: from the checkpoint before it are fewer tokens than come after."""
    positions = [0, *checkpoint_positions(n_prompt, 0)]
    assert len(positions) < 14
    for parts_at in range(1, n_prompt):
        again = parts_at - max(position for position in positions if position <= parts_at)
        assert again <= max(n_prompt - 1 - parts_at, 64)
