import json
from pathlib import Path
from typing import Any

import pytest

from tests import zoo
from tests.model.range_server import Answer, RangeServer
from vram_llm.errors import AccessDenied, ModelNotFound, RemoteError
from vram_llm.model import hub
from vram_llm.model.header_reader import read_header

QUANTS = ["m-Q4_K_M.gguf", "m-IQ4_K_M.gguf", "m.Q4_K_S.gguf", "m-q8_0.gguf", "m-Q4_K.gguf"]
SPLIT = [f"BF16/m-BF16-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
OTHERS = ["README.md", "mmproj-Q4_K_M.gguf", "m-imatrix.gguf", "mtp-Q8_0.gguf", "m-Q4_K_M.gguf.md5"]
ALL = QUANTS + SPLIT + OTHERS


def listing(server: RangeServer, files: list[str], revision: str = "main", **headers: str) -> None:
    entries: list[dict[str, Any]] = [{"type": "directory", "oid": "0", "size": 0, "path": "BF16"}]
    entries += [{"type": "file", "oid": "0", "size": 1, "path": each} for each in files]
    path = f"/api/models/org/some.repo/tree/{revision}?recursive=true"
    server.answers[path] = Answer(200, headers, json.dumps(entries).encode())


def choose(tag: str | None, files: list[str]) -> str:
    return hub.choose(hub.HubModel("org/some.repo", None, None, tag), files)


@pytest.mark.parametrize(
    ("tag", "file"),
    [
        ("Q4_K_M", "m-Q4_K_M.gguf"),
        ("q4_k_m", "m-Q4_K_M.gguf"),
        ("IQ4_K_M", "m-IQ4_K_M.gguf"),
        ("Q4_K_S", "m.Q4_K_S.gguf"),
        ("Q4_K", "m-Q4_K.gguf"),
        ("Q8_0", "m-q8_0.gguf"),
        ("bf16", SPLIT[0]),
    ],
)
def test_a_quantisation_names_a_file(tag: str, file: str) -> None:
    assert choose(tag, ALL) == file


def test_a_folder_may_carry_the_name() -> None:
    assert choose("Q8_0", ["Q8_0/m.gguf", "Q4_0/m.gguf"]) == "Q8_0/m.gguf"


def test_the_only_model_needs_no_name() -> None:
    assert choose(None, [*SPLIT, *OTHERS]) == SPLIT[0]


@pytest.mark.parametrize(
    ("tag", "files", "sentence"),
    [
        (
            "Q5_0",
            ALL,
            rf"hf:org/some.repo has no model with Q5_0 in its name; there are {SPLIT[0]}, m-IQ4_K_M",
        ),
        ("Q8_0", ["a-Q8_0.gguf", "b-Q8_0.gguf"], "Q8_0 in hf:org/some.repo may be any of 2 models; .*a-Q8_0"),
        (None, QUANTS, "hf:org/some.repo may be any of 5 models; name one as hf:org/some.repo/FILE: m-IQ4"),
        (None, OTHERS, r"hf:org/some.repo holds no \.gguf model"),
        ("Q1", [f"{i:02d}.gguf" for i in range(20)], r"00\.gguf, .*11\.gguf and 8 more$"),
        (None, ["m\x1b[2J.gguf"], "holds no"),
    ],
)
def test_none_or_several_are_listed(tag: str | None, files: list[str], sentence: str) -> None:
    with pytest.raises(ModelNotFound, match=sentence):
        choose(tag, files)


@pytest.mark.parametrize(
    ("name", "wish"),
    [
        ("hf:o/r/m.gguf", hub.HubModel("o/r", None, "m.gguf", None)),
        ("HF:o/r/a b/c.gguf", hub.HubModel("o/r", None, "a b/c.gguf", None)),
        ("hf:o/r:Q4_K_M", hub.HubModel("o/r", None, None, "Q4_K_M")),
        ("hf:o/r@v1:Q4_K_M", hub.HubModel("o/r", "v1", None, "Q4_K_M")),
        ("hf:o/r@v1/m.gguf", hub.HubModel("o/r", "v1", "m.gguf", None)),
        ("hf:o/r", hub.HubModel("o/r", None, None, None)),
    ],
)
def test_names(name: str, wish: hub.HubModel) -> None:
    assert hub.parse(name) == wish


@pytest.mark.parametrize(
    "name",
    [
        "hf:", "hf:o", "hf:o/", "hf://o/r", "hf:../r/m.gguf", "hf:o/r/../../x", "hf:o/r/", "hf:o/r:",
        "hf:o/r:a/b", "hf:o/r?x",
    ],
)  # fmt: skip
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ModelNotFound, match=r"is not a name on a hub; write hf:ORG/REPO/FILE\.gguf or"):
        hub.parse(name)


def test_a_file_is_read_without_asking_for_the_list(server: RangeServer, models: Path) -> None:
    zoo.write(zoo.llama(2, 64, 4, 2, 128, 96), models / "m.gguf")
    server.serve_folder(models, "/org/some.repo/resolve/main/sub dir/")
    header = read_header("hf:org/some.repo/sub dir/m.gguf")
    assert str(header.path) == "hf:org/some.repo/sub dir/m.gguf"
    assert [path for path, _ in server.seen] == ["/org/some.repo/resolve/main/sub%20dir/m.gguf"]


def test_a_quantisation_is_looked_up_and_all_its_parts_read(
    server: RangeServer, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.write(zoo.llama(4, 64, 4, 2, 128, 96), models / "m-Q8_0.gguf", shard_bytes=40_000)
    names = sorted(path.name for path in models.iterdir())
    server.serve_folder(models, "/org/some.repo/resolve/v2/")
    listing(server, names, "v2")
    server.token = "secret"
    monkeypatch.setenv("HF_TOKEN", " secret\n")
    header = read_header("hf:org/some.repo@v2:q8_0")
    assert [str(shard.path) for shard in header.shards] == [f"hf:org/some.repo@v2/{name}" for name in names]
    assert len(names) > 2


def test_a_list_in_pages(server: RangeServer) -> None:
    last = "/api/models/org/some.repo/tree/main?recursive=true&cursor=2"
    listing(server, ["m-Q4_0.gguf"], Link=f'<{server.url}{last}>; rel="next"')
    server.answers[last] = Answer(200, {}, b'[{"type": "file", "path": "m-Q8_0.gguf"}]')
    with pytest.raises(ModelNotFound, match=r"there are m-Q4_0\.gguf, m-Q8_0\.gguf$"):
        read_header("hf:org/some.repo:F16")


def test_a_list_without_end(server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "MAX_PAGES", 3)
    path = "/api/models/org/some.repo/tree/main?recursive=true"
    listing(server, ["m-Q4_0.gguf"], Link=f'<{server.url}{path}>; rel="next"')
    with pytest.raises(ModelNotFound, match=r"no hf:org/some.repo/m-Q4_0.gguf"):
        read_header("hf:org/some.repo")
    assert [asked for asked, _ in server.seen].count(path) == 3


def test_no_such_repository_or_file(server: RangeServer) -> None:
    with pytest.raises(ModelNotFound, match=r"there is no hf:org/gone on 127\.0\.0\.1:\d+ \(404\)"):
        read_header("hf:org/gone:Q8_0")
    with pytest.raises(ModelNotFound, match=r"there is no hf:org/gone/m.gguf on 127\.0\.0\.1:\d+ \(404\)"):
        read_header("hf:org/gone/m.gguf")


@pytest.mark.parametrize("body", [b"<html>", b'{"error": "x"}', b'[{"path": 1}]', b"\xff"])
def test_a_server_that_is_no_hub(server: RangeServer, body: bytes) -> None:
    server.answers["/api/models/o/r/tree/main?recursive=true"] = Answer(200, {}, body)
    with pytest.raises(RemoteError, match=r"something other than a list of files for hf:o/r: .*HF_ENDPOINT"):
        read_header("hf:o/r:Q8_0")


@pytest.mark.parametrize("endpoint", ["hub.test", "ftp://hub.test", "https://", "http://h:nine"])
def test_an_endpoint_that_is_no_address(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(RemoteError, match=r"HF_ENDPOINT is '.*', which is not a server's address"):
        read_header("hf:o/r:Q8_0")


def test_a_gated_model_wants_a_token(server: RangeServer) -> None:
    server.token = "secret"
    with pytest.raises(AccessDenied, match=r"hf:o/r is gated, private or not there .* set HF_TOKEN"):
        read_header("hf:o/r:Q8_0")


def test_the_saved_token_is_used_after_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HF_TOKEN_PATH", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert hub.endpoint().token is None
    (tmp_path / "token").write_text("saved\n")
    assert hub.endpoint().token == "saved"
    monkeypatch.setenv("HF_TOKEN", "given")
    assert hub.endpoint().token == "given"
    monkeypatch.setenv("HF_TOKEN", "gi\nven")
    with pytest.raises(RemoteError, match="token holds characters") as caught:
        hub.endpoint()
    assert "ven" not in str(caught.value)
