"""Where to checkpoint a model that cannot rewind: recurrent models, and those with a sliding window.

The KV cells of full attention serve any beginning of the computed tokens. A recurrent state, or the window of
a sliding-window layer, serves only its own position: to share a beginning, its state must have been saved
when the computation was there.
"""

_NEAREST = 64  # tokens


def checkpoint_positions(n_prompt: int, branch: int) -> list[int]:
    """Positions of a prompt of `n_prompt` tokens whose states are worth keeping, ascending.

    One position before the end serves another answer to the same prompt. Then 64, 128, 256, ... before that:
    a prompt that differs near its end, as a chat's next turn does, computes at most as many tokens again as
    it has new ones. And `branch`, where the prompt parts from an earlier one: later prompts may part there
    too.
    """
    last = n_prompt - 1
    found = {last, branch}
    back = _NEAREST
    while back < last:
        found.add(last - back)
        back *= 2
    return sorted(position for position in found if 0 < position <= last)
