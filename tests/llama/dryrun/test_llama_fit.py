"""llama.cpp's own --fit on virtual devices: what it answers is what it would do with real ones."""

from pathlib import Path

import pytest

from bench.llama_fit import Fitted, fit
from tests.llama.dryrun.test_client import CARDS, a_context
from tests.zoo import Model, glm_45_air, gpt_oss, write
from vram_llm.llama.bindings import C
from vram_llm.llama.dryrun import worker
from vram_llm.llama.dryrun.wire import DryRunRequest
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import profile
from vram_llm.model.strip import write_stripped
from vram_llm.planner.types import HOST
from vram_llm.units import GIB, MIB

pytestmark = pytest.mark.process

CONTEXT = a_context(op_offload=True)
MARGIN_BYTES = 1 * GIB
WITHOUT_ALLOCATION_BYTES = 8 * MIB  # llama.cpp's no_alloc, by which --fit measures, may be less than a load


@pytest.fixture(scope="module", autouse=True)
def llama_cpp() -> None:
    C.llama_backend_init()


def fitted(folder: Path, model: Model, free_gib: list[float], *, keeps_ctx: bool = True) -> Fitted:
    header = read_header(write(model, folder / "whole.gguf"))
    path = write_stripped(header, folder / "model.gguf")
    free_bytes = [int(gib * GIB) for gib in free_gib]
    return fit(
        path, profile(header), CONTEXT, CARDS[: len(free_gib)], free_bytes, MARGIN_BYTES, keeps_ctx=keeps_ctx
    )


def test_a_model_that_fits_stays_whole(tmp_path: Path) -> None:
    found = fitted(tmp_path, gpt_oss(8), [16, 8])
    assert (found.fits, found.placement.overrides, found.placement.cpu_layers) == (True, (), 0)
    assert found.placement.layers_per_device == (6, 2)  # by free memory, and the output


def test_experts_that_do_not_fit_go_to_the_host_and_each_device_keeps_its_margin(tmp_path: Path) -> None:
    free_gib = [6.0, 5.0, 5.0]
    found = fitted(tmp_path, gpt_oss(8), free_gib)
    assert found.fits
    assert (found.placement.cpu_layers, sum(found.placement.layers_per_device)) == (0, 8)
    assert HOST in {override.device for override in found.placement.overrides}
    request = DryRunRequest(str(tmp_path / "model.gguf"), CONTEXT, found.placement, list(CARDS))
    for use, gib in zip(worker.measure_placement(request).devices, free_gib, strict=True):
        assert use.total_bytes <= gib * GIB - MARGIN_BYTES + WITHOUT_ALLOCATION_BYTES


def test_an_open_context_shrinks_first(tmp_path: Path) -> None:
    """To 4,096 tokens, where no length makes the whole model fit."""
    assert fitted(tmp_path, gpt_oss(8), [6.0, 5.0, 5.0], keeps_ctx=False).n_ctx == 4096


def test_the_first_layer_is_on_the_host_if_the_file_has_an_mtp_block(tmp_path: Path) -> None:
    """--fit counts layers without MTP blocks, llama.cpp's split with them: one layer is left over."""
    found = fitted(tmp_path, glm_45_air(6), [10.0])
    assert found.placement.cpu_layers == 1
