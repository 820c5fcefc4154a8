"""The positions at which the state of a model that cannot rewind is saved.

Recurrent models and models with a sliding window cannot rewind.

The KV cells of full attention serve any beginning of the computed tokens. A recurrent state, or the window of
a sliding-window layer, serves only its own position: a beginning can be shared only if the state was saved at
its end.
"""

_NEAREST = 64  # tokens


def checkpoint_positions(n_prompt: int, branch: int) -> list[int]:
    """The positions of a prompt of `n_prompt` tokens at which to save the state, ascending.

    The last position before the end serves another answer to the same prompt. Positions 64, 128, 256, ...
    tokens before it serve prompts that differ near the end, such as the next turn of a chat: they compute
    again at most as many tokens as they have new ones. At `branch` this prompt differs from an earlier one;
    later prompts may differ there too.
    """
    last = n_prompt - 1
    found = {last, branch}
    back = _NEAREST
    while back < last:
        found.add(last - back)
        back *= 2
    return sorted(position for position in found if 0 < position <= last)
