"""A llama with known text: each token's successor is fixed, so that tests can expect its words.

It replaces models whose words llama-server's tests name, such as stories260K. The layers add nothing: the
embedding is one-hot, and the output matrix is the table of successors with a little noise, so that grammars,
biases and sampling still have something to choose from.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np

_SPACE = "\u2581"
# Merges of a SentencePiece vocabulary, the strongest first. With these the tests' prompts have the token
# counts that they expect: 69, 77, 79, 104 and 23.
_MERGES = (
    "im", "st", "ar", "en", "an", "is", "as", "at", "er", "oo", "em", "emp", "no", "not", "it", f"{_SPACE}t",
    "he", f"{_SPACE}the", f"{_SPACE}b", f"{_SPACE}a", f"{_SPACE}it", "in", "on", "ou", "od", "ing", "ite",
    f"{_SPACE}f", "un", "ac", "ti", "Wh", f"{_SPACE}s", f"{_SPACE}B", "ut",
)  # fmt: skip
# The words of the text, in a circle. They contain what the tests search for.
_CIRCLE = (
    " But", " she", " couldn't", " Suddenly", " Whillicter", " going", " bed", " Whiskers", " Ann",
    " little", " eye", " special", " far", " day", " Dad", " blue",
)  # fmt: skip
_FIM = ("<fim_pre>", "<fim_suf>", "<fim_mid>")
_ENTRY: Mapping[str, str] = {"is": " blue"}  # else " But"
PICTURES = ("cat", "frog", "automobile")
_N_EMBD = 512
_SUCCESSOR, _CLOSING, _NOISE = 1.5, 0.5, 0.08  # times sqrt(512), about 23, in logits
_CLOSERS = ('"', "}", "]")  # likely off the text, so that text forced by a grammar ends


def write_scripted(
    path: Path,
    circle: Sequence[str] = _CIRCLE,
    *,
    ends: bool = False,
    template: str | None = None,
    n_ctx_train: int = 16384,
    fills: bool = False,
) -> Path:
    """Write the model, which repeats the words of `circle`, or writes them once if it `ends`.

    One that `fills` has tokens for the prefix, the suffix and the middle.
    """
    tokens, scores, types = _vocabulary(circle, _FIM if fills else ())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("scripted llama")
    writer.add_block_count(1)
    writer.add_context_length(n_ctx_train)
    writer.add_embedding_length(_N_EMBD)
    writer.add_feed_forward_length(64)
    writer.add_head_count(8)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_N_EMBD // 8)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    for name, token in zip(("pre", "suf", "mid"), _FIM if fills else (), strict=False):
        writer.add_uint32(f"tokenizer.ggml.fim_{name}_token_id", tokens.index(token))
    if template is not None:
        writer.add_chat_template(template)
    _add_weights(writer, tokens, [word.replace(" ", _SPACE) for word in circle], ends=ends)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _vocabulary(circle: Sequence[str], marks: Sequence[str]) -> tuple[list[str], list[float], list[int]]:
    """Tokens by id, their scores and their types: bytes, printable letters, merges, words, marks."""
    kinds = gguf.TokenType
    letters = [chr(i) for i in range(33, 127)] + [_SPACE]
    words = [word.replace(" ", _SPACE) for word in circle]
    texts = list(dict.fromkeys([*_MERGES, *letters, *words]))
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *texts, *marks]
    scores = [0.0] * 259 + [-1.0 - i for i in range(len(texts) + len(marks))]
    types: list[int] = [
        kinds.UNKNOWN,
        kinds.CONTROL,
        kinds.CONTROL,
        *[kinds.BYTE] * 256,
        *[kinds.NORMAL] * len(texts),
        *[kinds.CONTROL] * len(marks),
    ]
    return tokens, scores, types


def _add_weights(writer: gguf.GGUFWriter, tokens: Sequence[str], words: Sequence[str], *, ends: bool) -> None:
    ids = {token: i for i, token in enumerate(tokens)}
    noise = np.random.default_rng(1).standard_normal((len(tokens), _N_EMBD), dtype=np.float32)
    output = noise * np.float32(_NOISE)
    for closer in _CLOSERS if ends else ():
        output[ids[closer]] += _CLOSING
    following = dict(zip(words, [*words[1:], "</s>" if ends else words[0]], strict=True))
    for token, i in ids.items():
        entry = _ENTRY.get(token, "").replace(" ", _SPACE)
        output[ids[following.get(token) or (entry if entry in ids else words[0])], i] += _SUCCESSOR
    for name, shape in (
        ("attn_q", (_N_EMBD, _N_EMBD)), ("attn_k", (64, _N_EMBD)), ("attn_v", (64, _N_EMBD)),
        ("attn_output", (_N_EMBD, _N_EMBD)), ("ffn_gate", (64, _N_EMBD)), ("ffn_up", (64, _N_EMBD)),
        ("ffn_down", (_N_EMBD, 64)), ("attn_norm", (_N_EMBD,)), ("ffn_norm", (_N_EMBD,)),
    ):  # fmt: skip
        fill = np.ones if name.endswith("norm") else np.zeros
        writer.add_tensor(f"blk.0.{name}.weight", fill(shape, np.float32))
    writer.add_tensor("token_embd.weight", np.eye(len(tokens), _N_EMBD, dtype=np.float32))
    writer.add_tensor("output_norm.weight", np.ones(_N_EMBD, np.float32))
    writer.add_tensor("output.weight", output)
