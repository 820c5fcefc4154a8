"""Inputs of embeddings that hold images or sound, computed in parts: a batch of text, or one image.

llama.cpp takes tokens and rows of images in batches of their own, and its pooling sees one micro-batch. So
the context gives a vector for each row (Context.pools_in_engine), and `pool` makes one vector of them all.
"""

from collections import deque

import numpy as np
import numpy.typing as npt

from vram_llm.engine.inputs.embedding_tokens import MixedInput
from vram_llm.engine.stats_recorder import StatsRecorder
from vram_llm.errors import EngineDied, RequestError
from vram_llm.llama.model import LoadedModel
from vram_llm.llama.multimodal.encoder import ImageRows
from vram_llm.model.pooling import Pooling

Vectors = npt.NDArray[np.float32]
_SLOT = 0  # other slots are empty meanwhile


class MixedRun:
    """Computes one input with `model`, whose other sequences are empty until the end."""

    def __init__(self, model: LoadedModel, recorder: StatsRecorder, given: MixedInput) -> None:
        self._model = model
        self._recorder = recorder
        self._parts: deque[list[int] | ImageRows] = deque()
        for part in given.parts:
            whole = [part] if isinstance(part, ImageRows) else _cut(part, model.n_batch)
            self._parts.extend(whole)
        self._position = 0
        self._vectors: list[Vectors] = []

    def step(self) -> Vectors | None:
        """Compute one part. After the last: the vectors of all rows, shape (n_rows, n_pooled); else None.

        Raises RequestError if the projector fails, EngineDied.
        """
        part = self._parts[0]
        if isinstance(part, list):
            self._compute_text(part)
        elif not self._is_computed(part):
            return None
        self._parts.popleft()
        if self._parts:
            return None
        self.end()
        return np.concatenate(self._vectors)

    def end(self) -> None:
        """Free its sequence."""
        self._model.forget(_SLOT)

    def _compute_text(self, tokens: list[int]) -> None:
        batch = self._model.batch
        batch.clear()
        batch.add(tokens, self._position, _SLOT, n_outputs=len(tokens))
        with self._recorder.llama:
            status = self._model.decode()
            self._model.wait()
        if status != 0:
            raise EngineDied(f"llama.cpp could not embed {len(tokens)} tokens (code {status})")
        self._recorder.note_steps(1, len(tokens), 1)
        self._keep(len(tokens))
        self._position += len(tokens)

    def _is_computed(self, image: ImageRows) -> bool:
        """Encode an image, or compute its rows if it is encoded; True after its rows."""
        reader = self._model.images
        assert reader is not None
        is_encoded = reader.has_encoded(image)
        self._recorder.note_steps(1, image.n_rows if is_encoded else 0, 1)
        with self._recorder.llama:
            if not is_encoded:
                if not reader.encode(image):
                    raise RequestError("the projector failed on an image of this request")
                return False
            status = reader.decode(image, self._position, _SLOT, self._keep)
            self._model.wait()
        if status != 0:
            raise EngineDied(f"llama.cpp could not compute an image of {image.n_rows} rows (code {status})")
        self._position += image.n_positions
        return True

    def _keep(self, n_rows: int) -> None:
        """Copy the vectors of the batch that was computed last."""
        self._vectors.append(self._model.token_vectors(0, n_rows))


def pool(vectors: Vectors, pooling: Pooling | None) -> Vectors:
    """The rows of the answer for one input, from `vectors` of shape (n_rows, width): one row, or all."""
    if pooling is Pooling.NONE:
        return vectors
    if pooling is Pooling.MEAN:
        mean: Vectors = vectors.mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32)
        return mean
    return vectors[:1] if pooling is Pooling.CLS else vectors[-1:]


def _cut(tokens: list[int], n: int) -> list[list[int]]:
    return [tokens[start : start + n] for start in range(0, len(tokens), n)]
