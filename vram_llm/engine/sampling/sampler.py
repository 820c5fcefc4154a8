"""A sampler turns a row of logits into a token. choose_sampler.py chooses one for each request.

A grammar may allow only a few tokens: then only their logits are read. A request that the device samples has
no logits on the host: its sampler fetches the token.
"""

from collections.abc import Sequence

import numpy as np

from vram_llm.engine.sampling.numpy_sampler import Indices, NumpySampler
from vram_llm.engine.sampling.sampler_chains import device_chain
from vram_llm.engine.sequence import DeviceSamplerConfig
from vram_llm.errors import EngineDied
from vram_llm.llama.model import LoadedModel
from vram_llm.llama.sampling import SamplerChain, seed_of

Candidates = dict[int, float]  # tokens that the samplers left, and their probabilities


class Sampler:
    """Samples the tokens of one sequence on the host. Call `close` at the end."""

    def __init__(self, model: LoadedModel, method: SamplerChain | NumpySampler | None) -> None:
        self._model = model
        self._method = method  # None: arg max

    @property
    def is_argmax(self) -> bool:
        """True if the most likely token is taken as it stands."""
        return self._method is None

    def sample(self, row: int, allowed: Indices | None = None) -> int:
        """A token for output row `row` of the last decode; one of `allowed`, which is not empty, if given."""
        method = self._method
        if isinstance(method, SamplerChain):
            if allowed is None:
                return method.sample(self._model.ctx, row)
            return method.sample_among(allowed, self._model.logits(row)[allowed])
        logits = self._model.logits(row)
        if allowed is not None:
            logits = logits[allowed]
        index = int(logits.argmax()) if method is None else method(logits)
        return index if allowed is None else int(allowed[index])

    def sample_candidates(self, row: int, allowed: Indices | None = None) -> tuple[int, Candidates]:
        """As `sample`, with the candidates that the samplers left."""
        method, logits = self._method, self._model.logits(row)
        tokens = np.arange(len(logits)) if allowed is None else allowed
        if isinstance(method, SamplerChain):
            return method.sample_with_candidates(tokens, logits[tokens])
        if method is None:
            best = int(tokens[logits[tokens].argmax()])
            return best, {best: 1.0}
        indices, weights = method.filtered(logits[tokens])
        kept = tokens if indices is None else tokens[indices]
        probabilities = weights / weights.sum(dtype=np.float64)
        token = int(kept[method.draw(weights)])
        return token, dict(zip(kept.tolist(), probabilities.tolist(), strict=True))

    def resume(self, tokens: Sequence[int]) -> None:
        """Take in tokens that an earlier engine sampled: penalties and random draws continue after them."""
        method = self._method
        if isinstance(method, SamplerChain):
            for token in tokens:
                method.resume(token)
        elif method is not None:
            method.skip(len(tokens))

    def close(self) -> None:
        """Free llama.cpp's sampler chain. Call it once."""
        if isinstance(self._method, SamplerChain):
            self._method.close()


class DeviceSampler:
    """Fetches the tokens that a chain on the device samples for one sequence. Call `close` at the end.

    While it is bound to no slot, a chain of its own keeps the state of its random draws.
    """

    is_argmax = False  # there are no logits

    def __init__(self, model: LoadedModel, config: DeviceSamplerConfig, seed: int | None) -> None:
        self._model = model
        self._own = device_chain(config, model.vocab.n_tokens, seed_of(seed))
        self.slot = -1

    def bind(self, slot: int) -> None:
        """Copy the state into a slot's chain, which has the same config, and continue there."""
        self._model.attached(slot).copy_state(self._own)
        self.slot = slot

    def unbind(self) -> None:
        """Copy the state back from the slot's chain, so that others can use it."""
        self._own.copy_state(self._model.attached(self.slot))
        self.slot = -1

    def sample(self, row: int, allowed: Indices | None = None) -> int:
        """The token for output row `row`. Call in the order of rows, and stop after the last accepted one.

        A draw counts only once its token is fetched, so rows of a rejected draft change no state.
        """
        token = self._model.sampled(row)
        if token < 0 or allowed is not None:
            raise EngineDied("llama.cpp sampled no token on the device where it should have")
        self._model.attached(self.slot).accept(token)
        return token

    def resume(self, tokens: Sequence[int]) -> None:
        """Take in tokens that an earlier engine sampled. Before the first `bind`."""
        for token in tokens:
            self._own.resume(token)

    def close(self) -> None:
        """Free its own chain. Once only."""
        self._own.close()
