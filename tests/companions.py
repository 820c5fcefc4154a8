"""Writes small LoRA adapters and projectors with random weights, which llama.cpp loads with a model."""

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

from vram_llm.model.header_reader import read_header

_CHANGED = ("attn_q", "attn_v", "attn_output", "ffn_up", "ffn_down", "shortconv", "ssm_in")


def write_lora(path: Path, model: Path, *, rank: int = 8, named: Sequence[str] = _CHANGED) -> Path:
    """An adapter of `model` that changes its matrices whose names have one of `named` in them."""
    header, random = read_header(model), np.random.default_rng(3)
    arch = header.metadata["general.architecture"]
    assert isinstance(arch, str)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    for tensor in header.tensors:
        if len(tensor.shape) != 2 or not any(name in tensor.name for name in named):
            continue
        n_in, n_out = tensor.shape
        for half, shape in (("a", (rank, n_in)), ("b", (n_out, rank))):
            weights = random.standard_normal(shape, dtype=np.float32) * np.float32(0.3)
            writer.add_tensor(f"{tensor.name}.lora_{half}", weights)
    _finish(writer)
    return path


class _RandomWeights:
    """Adds tensors of random weights to a file: F32, or F16 with `half`."""

    def __init__(self, writer: gguf.GGUFWriter, seed: int) -> None:
        self._writer = writer
        self._random = np.random.default_rng(seed)

    def add(self, name: str, *shape: int, half: bool = False) -> None:
        """Add a tensor. The weights of a norm are near 1: else biases would drown the input."""
        weights = self._random.standard_normal(shape, dtype=np.float32) / np.float32(8)
        if name.endswith(".weight") and len(shape) == 1:
            weights += 1
        self._writer.add_tensor(name, weights.astype(np.float16) if half else weights)

    def add_layers(
        self, encoder: str, n_layers: int, n_embd: int, n_ff: int, no_bias: Sequence[str] = ()
    ) -> None:
        """Add the transformer layers of `encoder` ("v" or "a"); tensors in `no_bias` get no bias."""
        shapes = {
            "attn_q": (n_embd, n_embd), "attn_k": (n_embd, n_embd), "attn_v": (n_embd, n_embd),
            "attn_out": (n_embd, n_embd), "ffn_up": (n_ff, n_embd), "ffn_down": (n_embd, n_ff),
            "ln1": (n_embd,), "ln2": (n_embd,),
        }  # fmt: skip
        for i in range(n_layers):
            for name, shape in shapes.items():
                self.add(f"{encoder}.blk.{i}.{name}.weight", *shape, half=len(shape) > 1)
                if name not in no_bias:
                    self.add(f"{encoder}.blk.{i}.{name}.bias", shape[0])


def write_mmproj(path: Path, *, n_text: int = 64, image: int = 56, kind: str = "mlp") -> Path:
    """A projector of images: a small vision transformer, and layers that make its rows `n_text` wide.

    `kind` is the projector's type in llama.cpp. LLaVA's "mlp" makes a row of each patch. Qwen2-VL's
    "qwen2vl_merger" makes a row of four patches, takes images of any size, and puts several rows at a
    position. Gemma 3's "gemma3" makes a row of four patches, and its rows attend to each other.
    """
    n_embd, n_ff, n_layers, patch = 96, 384, 3, 14
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_name("tiny eyes")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", kind)
    writer.add_bool("clip.use_gelu", True)
    sizes = {
        "image_size": image, "patch_size": patch, "embedding_length": n_embd, "feed_forward_length": n_ff,
        "projection_dim": n_text, "block_count": n_layers, "attention.head_count": 4,
    }  # fmt: skip
    if kind == "gemma3":
        sizes["projector.scale_factor"] = 2
    for key, size in sizes.items():
        writer.add_uint32(f"clip.vision.{key}", size)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])

    weights = _RandomWeights(writer, seed=5)
    add = weights.add
    add("v.patch_embd.weight", n_embd, 3, patch, patch, half=True)
    norms = ["v.post_ln"]
    if kind == "qwen2vl_merger":
        add("v.patch_embd.weight.1", n_embd, 3, patch, patch, half=True)
    else:
        add("v.position_embd.weight", (image // patch) ** 2 + (kind == "mlp"), n_embd)
    if kind == "mlp":
        add("v.class_embd", n_embd)
        norms.append("v.pre_ln")
    for name in norms:
        add(f"{name}.weight", n_embd)
        add(f"{name}.bias", n_embd)
    weights.add_layers("v", n_layers, n_embd, n_ff)
    if kind == "gemma3":
        add("mm.input_projection.weight", n_embd, n_text)
        add("mm.soft_emb_norm.weight", n_embd)
    else:
        n_in, n_middle = (n_embd, n_text) if kind == "mlp" else (4 * n_embd, 4 * n_embd)
        for number, shape in ((0, (n_middle, n_in)), (2, (n_text, n_middle))):
            add(f"mm.{number}.weight", *shape, half=True)
            add(f"mm.{number}.bias", shape[0])
    _finish(writer)
    return path


def write_ears(path: Path, *, n_text: int = 64, kind: str = "ultravox") -> Path:
    """A projector of sound: a small Whisper encoder, and layers that make its rows `n_text` wide.

    `kind` is the projector's type in llama.cpp. Of 30 s of sound, Ultravox's "ultravox" makes 47 rows, one of
    32 positions; Qwen2-Audio's "qwen2a" makes 750, one of two positions, with marks in text around them.
    Names and shapes: clip_model_loader in tools/mtmd/clip.cpp, models/whisper-enc.cpp.
    """
    n_embd, n_ff, n_layers, n_mel, n_stacked = 32, 64, 2, 80, 32
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_name("tiny ears")
    writer.add_bool("clip.has_audio_encoder", True)
    writer.add_string("clip.projector_type", kind)
    writer.add_bool("clip.use_gelu", True)
    sizes = {
        "num_mel_bins": n_mel, "embedding_length": n_embd, "feed_forward_length": n_ff,
        "projection_dim": n_text, "block_count": n_layers, "attention.head_count": 2,
    }  # fmt: skip
    if kind == "ultravox":
        sizes["projector.stack_factor"] = n_stacked
    for key, size in sizes.items():
        writer.add_uint32(f"clip.audio.{key}", size)
    writer.add_float32("clip.audio.attention.layer_norm_epsilon", 1e-5)

    weights = _RandomWeights(writer, seed=6)
    add = weights.add
    for number, n_in in ((1, n_mel), (2, n_embd)):
        add(f"a.conv1d.{number}.weight", n_embd, n_in, 3, half=True)
        add(f"a.conv1d.{number}.bias", n_embd, 1)
    add("a.position_embd.weight", 1500, n_embd)
    add("a.post_ln.weight", n_embd)
    add("a.post_ln.bias", n_embd)
    weights.add_layers("a", n_layers, n_embd, n_ff, no_bias=("attn_k",))
    if kind == "ultravox":
        add("mm.a.norm_pre.weight", n_embd * n_stacked)
        add("mm.a.mlp.1.weight", 2 * n_embd, n_embd * n_stacked, half=True)
        add("mm.a.norm_mid.weight", n_embd)
        add("mm.a.mlp.2.weight", n_text, n_embd, half=True)
    else:
        add("mm.a.fc.weight", n_text, n_embd, half=True)
        add("mm.a.fc.bias", n_text)
    _finish(writer)
    return path


def write_eyes_and_ears(path: Path) -> Path:
    """A file with a projector of images and one of sound, each with its own type, like Qwen2.5-Omni's."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_name("tiny eyes and ears")
    writer.add_bool("clip.use_gelu", True)
    for part, source in (
        ("vision", write_mmproj(path.with_suffix(".eyes"))),
        ("audio", write_ears(path.with_suffix(".ears"))),
    ):
        reader = gguf.GGUFReader(source)
        for name, field in reader.fields.items():
            if name == "clip.projector_type":
                writer.add_string(f"clip.{part}.projector_type", field.contents())
            elif name.startswith(("clip.has_", f"clip.{part}.")):
                element = field.types[-1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(name, field.contents(), field.types[0], element)
        for tensor in reader.tensors:
            writer.add_tensor(tensor.name, np.array(tensor.data))
    _finish(writer)
    return path


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
