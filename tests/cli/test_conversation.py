"""A conversation: questions with and without answers, images, and the file that keeps it."""

import json
from pathlib import Path

import pytest

from tests.pictures import png
from vram_llm.cli.conversation import Conversation, image_url, text_of, with_text
from vram_llm.errors import RequestError


@pytest.fixture
def conversation() -> Conversation:
    """Two questions, of which the first has an answer."""
    started = Conversation(system="Be brief.")
    started.add(started.question("one?"), "One.")
    started.unanswered = started.question("two?")
    return started


def test_what_is_sent(conversation: Conversation) -> None:
    assert conversation.unanswered is not None
    assert [each["content"] for each in conversation.request_messages(conversation.unanswered)] == [
        "Be brief.", "one?", "One.", "two?",
    ]  # fmt: skip


def test_questions_are_taken_back_from_the_last_on(conversation: Conversation) -> None:
    asked = []
    while (question := conversation.last_question()) is not None:
        asked.append(question["content"])
        conversation.take_back()
    assert asked == ["two?", "one?"]
    assert conversation.messages == []


def test_it_is_kept_in_a_file(conversation: Conversation, tmp_path: Path) -> None:
    conversation.save(tmp_path / "kept.json")
    loaded = Conversation()
    loaded.load(tmp_path / "kept.json")
    assert loaded == conversation
    conversation.clear()
    conversation.save(tmp_path / "kept.json")
    assert json.loads((tmp_path / "kept.json").read_text()) == {
        "messages": [{"role": "system", "content": "Be brief."}]
    }


def test_a_file_of_another_kind_is_neither_read_nor_replaced(
    conversation: Conversation, tmp_path: Path
) -> None:
    other = tmp_path / "notes.json"
    other.write_text('{"messages": [{"role": "boss", "content": 1}]}')
    with pytest.raises(RequestError, match=r"notes\.json is not a conversation"):
        conversation.load(other)
    with pytest.raises(RequestError, match=r"notes\.json exists and is not a conversation"):
        conversation.save(other)
    with pytest.raises(RequestError, match="there is no file"):
        conversation.load(tmp_path / "nowhere.json")
    with pytest.raises(RequestError, match="cannot be written: No such file or directory"):
        conversation.save(tmp_path / "nowhere" / "kept.json")
    assert len(conversation.messages) == 2


def test_pictures_go_with_one_question(tmp_path: Path) -> None:
    picture = tmp_path / "cat.png"
    picture.write_bytes(png(1))
    conversation = Conversation(images=[image_url(picture)])
    question = conversation.question("What is it?")
    assert [part["type"] for part in question["content"]] == ["image_url", "text"]
    assert conversation.question("And now?")["content"] == "And now?"
    changed = with_text(question, "Who is it?")
    assert text_of(changed) == "Who is it?"
    assert changed["content"][0] == question["content"][0]


@pytest.mark.parametrize(
    ("name", "sentence"), [("a.txt", "not named like an image"), ("a.png", "cannot be read")]
)
def test_files_that_are_no_pictures(tmp_path: Path, name: str, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        image_url(tmp_path / name)
