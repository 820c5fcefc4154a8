"""Say what a file is that is not a GGUF, by its first bytes."""


def looks_like(start: bytes) -> str:
    """The end of a sentence on a file that begins with `start`: "it is a web page"."""
    text = start.lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "it is a git-lfs pointer, not the model itself; run `git lfs pull`"
    if text.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "it is a web page; the download got an error or log-in page in place of the model"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**32:
        return "it is a safetensors file; convert it with llama.cpp's convert_hf_to_gguf.py"
    if start.startswith(b"PK\x03\x04"):
        return "it is a zip or PyTorch file; convert it with llama.cpp's convert_hf_to_gguf.py"
    if start[:4] in (b"lmgg", b"fmgg", b"tjgg", b"algg"):
        return "it is in a ggml format older than GGUF; get or convert a newer file"
    if start.startswith(b"\x1f\x8b"):
        return "it is compressed with gzip; unpack it first"
    if not start.strip(b"\0"):
        return "it begins with zero bytes, like a download that has not finished"
    if text.startswith((b"{", b"[")):
        return "it looks like JSON; name the .gguf file"
    return f"it begins with {start[:4]!r}, not b'GGUF'"
