"""The number of prompt rows in a step, chosen so that the next tokens of decoding streams are not late.

Policy only: the caller reports how long steps took; no clock.
"""

from dataclasses import dataclass

TILE_ROWS = 64  # of ggml's attention on the CPU: half a tile costs as much as a whole one
MIN_ROWS = 8  # however slow the device is
_DECODE_SHARE = 5  # a step with prompts may take this many times a step without, regardless of the target
_STRETCH = {2: 6, 1: 10}  # times the target that 2 tiles, or 1, may take: fewer rows cost more each
_MAX_FOR_MANY = 5  # times the target, if many prompts wait and few streams decode
_PROBE_EVERY = 16  # steps, then one without prompts measures the streams alone
_BRIEF_S = 0.1
_LONE_S = 1.0  # a step of prompts alone; a new request may have to wait for it
_WEIGHT = 0.3  # of the newest observation


@dataclass(slots=True)
class PrefillBudget:
    """Chooses rows so that a step with both kinds lasts about `target_s`.

    If streams alone take longer than a fifth of the target, the step may last five times as long as they
    take: otherwise every prompt row would cost more in repeated decode steps than it saves the streams. Their
    time grows with their context, so a step without prompts measures it now and then.
    """

    target_s: float
    max_rows: int
    n_ubatch: int
    _decode_s: float | None = None  # a step without prompts
    _row_s: float | None = None  # one more prompt row
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

    def is_brief(self, n_rows: int) -> bool:
        """Whether a step of `n_rows` prompt rows is known to take less than _BRIEF_S."""
        return self._row_s is not None and n_rows * self._row_s < _BRIEF_S

    def prefill_rows(self, n_decode: int, n_prompts: int) -> int:
        """The most prompt rows for a step with `n_decode` decode rows; 0 now and then, to measure.

        If more sequences wait for their first token (`n_prompts`) than decode, the step may take longer.
        """
        room = self.max_rows - n_decode
        if not n_decode:
            return min(room, self._lone_rows())
        if self._n_mixed >= _PROBE_EVERY:
            return 0
        tile = TILE_ROWS - n_decode % TILE_ROWS  # rows that fill up a tile
        if self._row_s is None:
            return min(room, tile)
        decode_s = self._decode_s or 0.0
        target_s = self.target_s * min(max(n_prompts / n_decode, 1), _MAX_FOR_MANY)
        rows = int((max(target_s, _DECODE_SHARE * decode_s) - decode_s) / self._row_s)
        for n_tiles, stretch in _STRETCH.items():
            least = tile + (n_tiles - 1) * TILE_ROWS
            if rows >= least or least * self._row_s <= stretch * self.target_s:
                return min(room, least + max(rows - least, 0) // TILE_ROWS * TILE_ROWS)
        return min(room, max(rows, MIN_ROWS))

    def _lone_rows(self) -> int:
        if self._row_s is None:
            return self.n_ubatch
        whole = int(_LONE_S / self._row_s) // self.n_ubatch
        return max(whole, 1) * self.n_ubatch


def _blend(before: float | None, seconds: float) -> float:
    return seconds if before is None else (1 - _WEIGHT) * before + _WEIGHT * seconds
