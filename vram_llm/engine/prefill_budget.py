"""How many rows of prompts go beside decoding streams, so that their next tokens are not late.

Policy only: it is told what steps took and never looks at a clock.
"""

from dataclasses import dataclass

TILE_ROWS = 64  # of ggml's attention on the CPU: fewer are computed one by one, and half a tile costs a whole
LEAST_ROWS = 8  # however slow the device: prompts get on
_DECODE_SHARE = 5  # a step beside prompts may last so many times one without, whatever the target
_STRETCH = {2: 6, 1: 10}  # times the target that so many tiles may take: fewer rows cost more each
_MOST_FOR_MANY = 5  # times the target, where many prompts wait beside few streams
_PROBE_EVERY = 16  # steps: streams alone, to see what they take by now
_LONE_S = 1.0  # a step of prompts alone: what a new request may have to wait for
_WEIGHT = 0.3  # of the newest observation


@dataclass(slots=True)
class Pace:
    """Chooses rows so that a step with both kinds lasts about `target_s`.

    Where streams alone take longer than a fifth of the target, the step may last five times what they take:
    otherwise every prompt row would cost more in repeated decode steps than it saves the streams. What they
    take grows with the context beside them, so it is measured now and then by a step without prompts.
    """

    target_s: float
    max_rows: int
    n_ubatch: int
    _decode_s: float | None = None  # a step without prompts
    _row_s: float | None = None  # one prompt row more
    _n_mixed: int = 0  # steps since one without prompts

    def observe(self, n_decode: int, n_prefill: int, seconds: float) -> None:
        """A step of `n_decode` decode rows and `n_prefill` prompt rows took `seconds`."""
        if not n_prefill:
            self._decode_s = seconds if self._n_mixed else _blend(self._decode_s, seconds)
            self._n_mixed = 0
            return
        self._n_mixed += 1
        before = self._decode_s or 0.0 if n_decode else 0.0
        rows = n_prefill if before or not n_decode else n_prefill + n_decode
        self._row_s = _blend(self._row_s, max(seconds - before, seconds / 10) / rows)

    def prefill_rows(self, n_decode: int, n_prompts: int) -> int:
        """The most prompt rows for a step beside `n_decode` decode rows; 0 now and then, as a probe.

        Where more wait for their first token than for their next, those `n_prompts` may take longer.
        """
        room = self.max_rows - n_decode
        if not n_decode:
            return min(room, self._lone_rows())
        if self._n_mixed >= _PROBE_EVERY:
            return 0
        tile = TILE_ROWS - n_decode % TILE_ROWS  # what fills one up
        if self._row_s is None:
            return min(room, tile)
        decode_s = self._decode_s or 0.0
        target_s = self.target_s * min(max(n_prompts / n_decode, 1), _MOST_FOR_MANY)
        rows = int((max(target_s, _DECODE_SHARE * decode_s) - decode_s) / self._row_s)
        for n_tiles, stretch in _STRETCH.items():
            least = tile + (n_tiles - 1) * TILE_ROWS
            if rows >= least or least * self._row_s <= stretch * self.target_s:
                return min(room, least + max(rows - least, 0) // TILE_ROWS * TILE_ROWS)
        return min(room, max(rows, LEAST_ROWS))

    def _lone_rows(self) -> int:
        if self._row_s is None:
            return self.n_ubatch
        whole = int(_LONE_S / self._row_s) // self.n_ubatch
        return max(whole, 1) * self.n_ubatch


def _blend(before: float | None, seconds: float) -> float:
    return seconds if before is None else (1 - _WEIGHT) * before + _WEIGHT * seconds
