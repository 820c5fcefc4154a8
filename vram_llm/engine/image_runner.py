"""The steps of images: one step encodes an image, the next computes its rows, all at once."""

from vram_llm.engine.kv_cache.prefix_cache import PrefixCache
from vram_llm.engine.scheduler import Scheduler
from vram_llm.engine.sequence import Chunk, ImageSpan, Sequence
from vram_llm.engine.stats_recorder import StatsRecorder
from vram_llm.errors import EngineDied
from vram_llm.llama.model import NO_ROOM, LoadedModel
from vram_llm.llama.multimodal.encoder import ImageReader


class ImageRunner:
    """Computes the images of sequences with the projector of `model`."""

    def __init__(
        self, model: LoadedModel, cache: PrefixCache, scheduler: Scheduler, recorder: StatsRecorder
    ) -> None:
        self._model = model
        self._cache = cache
        self._scheduler = scheduler
        self._recorder = recorder

    def run(self, chunk: Chunk) -> bool:
        """Encode a chunk's image or, once it is encoded, compute its rows; False if encoding fails.

        Raises EngineDied.
        """
        sequence, image, reader = chunk.sequence, chunk.image, self._model.images
        assert image is not None
        assert reader is not None
        self._model.batch.clear()  # else speed_check.py would count this time for the batch's rows
        is_encoded = reader.has_encoded(image.rows)
        self._recorder.note_steps(1, image.count if is_encoded else 0, 1)
        with self._recorder.llama:
            if not is_encoded:
                return reader.encode(image.rows)
            if self._compute_rows(reader, sequence, image):
                self._recorder.n_prompt_tokens += image.count
        return True

    def _compute_rows(self, reader: ImageReader, sequence: Sequence, image: ImageSpan) -> bool:
        """Compute the rows of the encoded image; False if its sequence had to be preempted."""
        cells, position = self._model.cells, sequence.position(image.start)
        while sequence.slot >= 0:
            self._cache.make_room(image.count)
            status = reader.decode(image.rows, position, sequence.slot)
            self._model.wait()
            if status == 0:
                sequence.n_cached += image.count
                self._cache.publish(sequence)
                return True
            if status != NO_ROOM or not cells.cut(sequence.slot, position):
                raise EngineDied(
                    f"llama.cpp could not compute an image of {image.count} rows (code {status})"
                )
            if not self._cache.evict() and not self._scheduler.preempt():
                raise EngineDied(f"llama.cpp has no room for an image of {image.count} rows")
        return False
