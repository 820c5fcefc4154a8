"""Bad input on the command line: one sentence, a code of its own, no traceback."""

import socket
from pathlib import Path

import pytest

from tests import zoo
from tests.cli.running import run, run_here
from tests.zoo.loadable import LOADABLE, write_loadable
from tools.random_model import write_llama
from vram_llm.cli import serve
from vram_llm.workflows import serving

pytestmark = pytest.mark.process


_RUNS_ON = ("chat", "worker", "nonsense", "--port")  # commands with one of these words get a process


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one model in every state a file can be in."""
    tmp_path = tmp_path_factory.mktemp("errors")
    good = write_llama(tmp_path / "good.gguf")
    data = good.read_bytes()
    (tmp_path / "text.gguf").write_text("this is not a model\n" * 100)
    (tmp_path / "page.gguf").write_text("<!DOCTYPE html><html>log in</html>")
    (tmp_path / "empty.gguf").write_bytes(b"")
    (tmp_path / "header-cut.gguf").write_bytes(data[:3000])
    (tmp_path / "data-cut.gguf").write_bytes(data[:-5000])
    (tmp_path / "counts.gguf").write_bytes(data[:8] + (2**60).to_bytes(8, "little") + data[16:])
    (tmp_path / "words.gguf").write_bytes(data.replace("\u2581w".encode(), "\u2581x".encode()))
    write_llama(tmp_path / "wide.gguf", n_vocab=600)
    write_loadable(LOADABLE["nemotron_h"](), tmp_path / "hybrid.gguf")
    write_loadable(LOADABLE["dense"](), tmp_path / "plain.gguf")
    (tmp_path / "strange.gguf").write_bytes(data.replace(b"llama", b"lemur"))
    zoo.write(zoo.llama(), tmp_path / "split.gguf", shard_bytes=4 * 10**9)
    (tmp_path / "split-00002-of-00003.gguf").unlink()
    (tmp_path / "broken.jinja").write_text("{{ messages }}\n{% for %}")
    (tmp_path / "fails.jinja").write_text("{{ messages }}\n{{ nobody.here }}")
    (tmp_path / "bad-plan.json").write_text('{"version": 1}')
    return tmp_path


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["analyze", "nowhere.gguf"], 10, "there is no file nowhere.gguf"),
        (["analyze", "."], 10, "models, which `vram-llm plan` compares: name one of"),
        (["analyze", "text.gguf"], 11, "is not a GGUF file"),
        (["analyze", "page.gguf"], 11, "it is a web page"),
        (["analyze", "empty.gguf"], 12, "is empty"),
        (["plan", "header-cut.gguf"], 12, "cut short"),
        (["plan", "data-cut.gguf"], 12, "bytes of its tensor data are missing"),
        (["plan", "counts.gguf"], 13, "1,152,921,504,606,846,976"),
        (["plan", "split-00001-of-00003.gguf"], 14, "split-00002-of-00003.gguf"),
        (["plan", "good.gguf", "--gpu", "RTX 9999 Ultra"], 20, "RTX 9999 Ultra"),
        (["plan", "good.gguf", "--gpu", "0x 4090"], 20, "0x 4090"),
        (["plan", "good.gguf", "--rpc", "127.0.0.1:1"], 21, "no worker answers at 127.0.0.1:1"),
        (["plan", "good.gguf", "--rpc", "nonsense"], 21, "write it like 127.0.0.1:50052"),
        (["plan", "good.gguf", "--gpu", "24GiB", "--tensor-split", "1,1"], 64, "2 shares and there are 1"),
        (["plan", "good.gguf", "--gpu", "24GiB", "--tensor-split", "0"], 64, "every share"),
        (["plan", "good.gguf", "--gpu", "24GiB", "--tensor-split", "GPU7=1"], 64, "the devices are GPU0"),
        (["plan", "good.gguf", "-ts", "GPU0=1,gpu0=1"], 64, "names GPU0 twice"),
        (["plan", "good.gguf", "--gpu", "24GiB", "-ts", "1", "-ncmoe", "2"], 23, "has no routed experts"),
        (["plan", "good.gguf", "--gpu", "24GiB", "-ts", "1", "-ot", "(=CPU"], 23, "no regular expression"),
        (["plan", "good.gguf", "--gpu", "24GiB", "-ot", "exps"], 64, "'exps' is no override; write it"),
        (["serve", "--plan", "bad-plan.json"], 23, "is not a plan"),
        (["serve", "--plan", "good.gguf"], 23, "is a model, not a plan"),
        (["serve", "--plan", "nowhere.json"], 23, "cannot be read"),
        (["serve", "good.gguf", "--gpu", "RTX 4090", "--port", "0"], 23, "not in this machine"),
        (["serve", "good.gguf", "--ram", "64GiB", "--port", "0"], 23, "is for another computer (64 GiB)"),
        (["plan", "good.gguf", "--ram", "lots"], 64, "not a size of memory; write memory like 64GiB"),
        (["plan", "good.gguf", "--cpu", "7950X"], 64, "the host lacks the size of its memory"),
        (["plan", "good.gguf", "--ram", "64GB", "--cpu", "Ryzen 9 7950Q"], 20, "AMD Ryzen 9 7950X"),
        (["plan", "good.gguf", "--disk", "fast"], 64, "not the speed of a disk"),
        (["plan", "good.gguf", "--gpu", "2x DGX Spark"], 64, "each is a computer of its own"),
        (["serve", "strange.gguf", "--port", "0"], 31, "unknown model architecture: 'lemur'"),
        (["plan", "good.gguf", "--n-ctx", "many"], 64, "is not a count"),
        (["plan", "good.gguf", "--kv-type", "q9"], 64, "'q9' is not one of"),
        (["plan", "good.gguf", "--kv-type", "q8_0", "--flash-attn", "off"], 23, "only with flash attention"),
        (["serve", "good.gguf", "--n-outputs-max", "2"], 23, "need 4 rows of logits"),
        (["plan", "good.gguf", "--flash-attn", "maybe"], 64, "'maybe' is not one of"),
        (["plan", "good.gguf", "--lora", "nowhere.gguf:0.5"], 10, "there is no file nowhere.gguf"),
        (["plan", "good.gguf", "--lora", "good.gguf"], 11, "is a model: give it as MODEL; --lora takes"),
        (["plan", "good.gguf", "--mmproj", "good.gguf"], 11, "--mmproj takes the model's projector"),
        (["plan", "good.gguf", "--draft", "mtp"], 23, "has no MTP head; --draft takes a smaller model"),
        (["plan", "good.gguf", "--draft", "wide.gguf"], 23, "it has 600 tokens, not 320"),
        (["plan", "plain.gguf", "--draft", "hybrid.gguf"], 23, "it cannot take its drafted tokens back"),
        (["serve", "good.gguf", "--draft", "words.gguf", "--port", "0"], 23, "token 259 is '\u2581x0'"),
        (["serve", "hybrid.gguf", "--draft", "plain.gguf", "--port", "0"], 23, "plan without --draft"),
        (["serve", "good.gguf", "--draft", "good.gguf", "--pooling", "mean"], 23, "are not drafted"),
        (["plan", "good.gguf", "--tensor-split", "a,b"], 64, "write it like 32,33,16 or GPU1=38,GPU2=43"),
        (["serve", "good.gguf", "--api-key-file", "empty.gguf"], 64, "holds no API key"),
        (["worker", "--listen", "0.0.0.0:50052"], 64, "let everybody in with --insecure"),
        (["serve", "good.gguf", "--host", "0.0.0.0", "--port", "0"], 64, "no API key is set: set $VRAM_LLM"),
        (["serve", "good.gguf", "--api-key", "@empty.gguf"], 64, "--api-key: empty.gguf holds no API key"),
        (["serve", "good.gguf", "--api-key", "@nowhere"], 64, "'nowhere' cannot be read: No such file"),
        (["serve", "good.gguf", "--api-key", ""], 64, "--api-key: an empty text is no API key"),
        (["chat", "127.0.0.1:9", "--api-key", "@nowhere"], 64, "'nowhere' cannot be read: No such file"),
        (["chat", "good.gguf", "--ssl-certfile", "good.gguf"], 64, "--ssl-certfile is for `vram-llm serve`"),
        (["serve", "good.gguf", "--ssl-keyfile", "good.gguf"], 64, "--ssl-keyfile needs --ssl-certfile"),
        (["serve", "good.gguf", "--ssl-certfile", "good.gguf"], 64, "good.gguf cannot be used"),
        (["serve", "good.gguf", "--keys-file", "nowhere"], 64, "`vram-llm keys add NAME` makes the file"),
        (["serve", "good.gguf", "--api-key-file", "nowhere"], 64, "'nowhere' does not exist"),
        (["serve", "good.gguf", "--chat-template-file", "broken.jinja"], 64, "a Jinja template (line 2: "),
        (["serve", "good.gguf", "--chat-template-file", "fails.jinja"], 64, "line 2: 'nobody' is undefined"),
        (["serve", "good.gguf", "--chat-template-file", "text.gguf"], 64, "leaves out the message of a chat"),
        (["serve", "good.gguf", "--chat-template-file", "good.gguf"], 64, "is not text in UTF-8"),
        (["serve", "good.gguf", "--chat-template-kwargs", '{"tools": 1}'], 64,
         "'tools' in --chat-template-kwargs is set by the server"),
        (["plan", "good.gguf", "--no-such-flag"], 64, "--no-such-flag"),
        (["plan", "good.gguf", "--model", "good.gguf"], 64, "name the model once"),
        (["serve", "good.gguf", "--plan", "x.json"], 64, "not both"),
        (["serve", "--plan", "x.json", "--n-ctx", "4k", "--no-mmap"], 64, "has decided --n-ctx, --mmap"),
        (["verify", "--plan", "x.json", "--gpu", "24GiB"], 64, "has decided --gpu"),
        (["plan", "--check", "x.json", "--parallel", "2"], 64, "has decided --parallel"),
        (["serve", "good.gguf", "--smart-split", "--tensor-split", "1"], 64, "give one of them"),
        (["nonsense"], 64, "nonsense"),
    ],
)  # fmt: skip
def test_one_sentence_and_a_code(
    folder: Path, args: list[str], code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "set_up_log", lambda config: None)  # the log of this process stays
    monkeypatch.setattr(serving, "serve", _serves)
    by = run if set(args) & set(_RUNS_ON) else run_here
    done = by(*args, cwd=folder, columns=200)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert message in done.stderr
    assert done.stdout == ""


def _serves(*_: object, **options: object) -> None:
    raise AssertionError("the command serves, where it should refuse")


def test_nothing_fits(tmp_path: Path) -> None:
    big = zoo.write(zoo.nemotron_49b(), tmp_path / "49b.gguf")
    done = run_here("plan", big, "--gpu", "RTX 4080 Laptop", "--n-gpu-layers", "81", "--json")
    assert done.returncode == 2
    assert "short" in done.stderr
    assert "does not fit" in done.stderr
    assert done.stdout == ""


def test_a_port_in_use(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for args in (
            ["serve", "good.gguf", "--port", str(port)],
            ["worker", "--listen", f"127.0.0.1:{port}"],
        ):
            done = run(*args, cwd=folder)
            assert done.returncode == 30
            assert str(port) in done.stderr
            assert done.stderr.count("\n") == 1
