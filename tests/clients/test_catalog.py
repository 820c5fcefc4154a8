"""The catalog and its lock files hold together."""

import json
from pathlib import Path

import pytest

from tests.clients.catalog import CLIENTS, LM_EVAL
from tests.clients.conversation import Client
from tests.clients.environments import HERE, NODE, Java

LOCKS = sorted((HERE / "python").glob("*.txt"))
NODE_LOCKS = sorted((HERE / "node").glob("*/package-lock.json"))


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_client_has_its_program_and_its_lock_file(client: Client) -> None:
    assert (HERE / "programs" / client.program).exists()
    assert isinstance(client.environment, Java) or client.environment.lock.exists()


def test_names_are_unique() -> None:
    assert len({client.name for client in CLIENTS}) == len(CLIENTS)


def test_no_program_or_lock_file_without_a_client() -> None:
    programs = {path.name for path in (HERE / "programs").iterdir() if path.is_file()}
    assert programs == {client.program for client in CLIENTS}
    locks = {client.environment.lock for client in CLIENTS if not isinstance(client.environment, Java)}
    assert {*LOCKS, *NODE_LOCKS} == locks | {NODE.lock, LM_EVAL.lock}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_every_version_is_exact(lock: Path) -> None:
    lines = [line for line in lock.read_text().splitlines() if line[:1] not in ("#", "")]
    assert [line for line in lines if "==" not in line.split(";")[0]] == []


@pytest.mark.parametrize("lock", NODE_LOCKS, ids=lambda path: path.parent.name)
def test_no_lock_file_names_a_registry(lock: Path) -> None:
    packages = json.loads(lock.read_text())["packages"]
    assert [name for name, package in packages.items() if "resolved" in package] == []
    assert all("integrity" in package for name, package in packages.items() if name)
