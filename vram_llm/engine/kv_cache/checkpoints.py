"""Where to keep the state of a model that cannot go back: recurrent ones, and those with a sliding window.

The KV cells of full attention serve any beginning of what was computed. A recurrent state, and the window of
a layer that forgets, only serve the position they are at: to share a beginning, its state must have been
kept when the computation was there.
"""

_NEAREST = 64  # tokens


def stops(n_prompt: int, branch: int) -> list[int]:
    """Positions of a prompt of `n_prompt` tokens whose states are worth keeping, ascending.

    One before its end, for another answer to the same prompt; then 64, 128, 256, ... before that, so that
    one that differs near its end, as a chat's next turn does, has at most as much to compute again as it
    has new. And `branch`, where it was seen to part from an earlier prompt: others may part there too.
    """
    last = n_prompt - 1
    found = {last, branch}
    back = _NEAREST
    while back < last:
        found.add(last - back)
        back *= 2
    return sorted(position for position in found if 0 < position <= last)
