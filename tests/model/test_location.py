import pytest

from vram_llm.model.location import RemoteFile, is_remote


@pytest.mark.parametrize(
    ("name", "remote"),
    [
        ("https://h/m.gguf", True), ("HTTP://h/m.gguf", True), ("hf:o/r:Q8_0", True), ("HF:o/r", True),
        ("m.gguf", False), ("./hf/m.gguf", False), ("/https/m.gguf", False), ("demo", False), ("", False),
    ],
)  # fmt: skip
def test_which_names_are_on_a_server(name: str, remote: bool) -> None:
    assert is_remote(name) is remote


def test_a_url_is_shown_without_its_secrets() -> None:
    file = RemoteFile.at("https://me:pass@Host.test:8443/a/b%20c-00001-of-00002.gguf?key=1#x")
    assert str(file) == file.label == "https://host.test:8443/a/b%20c-00001-of-00002.gguf"
    assert (file.name, file.stem) == ("b c-00001-of-00002.gguf", "b c-00001-of-00002")
    assert file.parent == "https://host.test:8443/a"
    other = file.with_name("b c-00002-of-00002.gguf")
    assert other.label == "https://host.test:8443/a/b%20c-00002-of-00002.gguf"
    assert other.url == "https://me:pass@Host.test:8443/a/b%20c-00002-of-00002.gguf?key=1#x"


def test_a_name_on_a_hub_keeps_its_own_form() -> None:
    file = RemoteFile("https://hub.test/o/r/resolve/main/d/b%20c.gguf", "hf:o/r/d/b c.gguf")
    assert (file.name, file.parent) == ("b c.gguf", "hf:o/r/d")
    other = file.with_name("x y.gguf")
    assert other == RemoteFile("https://hub.test/o/r/resolve/main/d/x%20y.gguf", "hf:o/r/d/x y.gguf")


def test_addresses_of_the_sixth_version() -> None:
    assert RemoteFile.at("http://[::1]:80/m").label == "http://[::1]:80/m"
