"""Fixtures of tests of several floors: tiny models, RPC workers, a server, plans for this processor."""

import contextlib
import gc
import platform
import sys
from collections.abc import Callable, Generator, Iterator
from multiprocessing import process as mp_process
from multiprocessing import util as mp_util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from scripts.build_args import SetupError
from scripts.fetch_templates import fetched_templates
from tests.cli.running import end_shared_dry_run
from tests.process_marks import may_choose
from tests.workers import running_workers
from tools.random_model import write_llama
from vram_llm.cli.configured_command import CONFIG_DIR_VARIABLE
from vram_llm.machine.json_store import DATA_DIR_VARIABLE
from vram_llm.machine.types import Host, Machine
from vram_llm.model.header_cache import CACHE_DIR_VARIABLE
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.types import Plan, Workload
from vram_llm.units import GIB
from vram_llm.workflows import detection

if TYPE_CHECKING:
    from tests.server.live import Serving

PlanOnCpu = Callable[..., Plan]

# The same examples in every run, and no limit of time: a busy computer fails no property.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")

# -- the marker "process" is held ----------------------------------------------------------------

_OF_MULTIPROCESSING = "multiprocessing.start"  # Python has no audit event for its ways but forking
_STARTS = frozenset(
    {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", _OF_MULTIPROCESSING}
)
_unmarked: str | None = None  # the running test that has no marker "process"


def _refuse_processes(event: str, _arguments: tuple[object, ...], starts: frozenset[str] = _STARTS) -> None:
    if event in starts and _unmarked is not None:
        pytest.fail(f"{_unmarked} starts a process ({event}) and has no marker 'process'")


def _audited(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        sys.audit(_OF_MULTIPROCESSING)
        return function(*args, **options)

    return call


platform.platform()  # asks `uname -p` once; the SDKs would ask for it in the first test that uses one
sys.addaudithook(_refuse_processes)
for _owner, _name in ((mp_process.BaseProcess, "start"), (mp_util, "spawnv_passfds")):
    setattr(_owner, _name, _audited(getattr(_owner, _name)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """While a test without the marker "process" runs, its set-up included, no process can be started."""
    global _unmarked
    _unmarked = None if item.get_closest_marker("process") else item.nodeid
    try:
        return (yield)
    finally:
        _unmarked = None


# -- collection ----------------------------------------------------------------------------------

gc.set_threshold(50_000)  # the many small objects that tests and the server's application are made of


# They begin first, so that at the end no process of pytest-xdist works alone (--no-loadscope-reorder).
_LONGEST_FILES = frozenset(
    f"tests/{name}.py"
    for name in (
        "cli/test_calibrate", "cli/test_from_disk", "cli/test_golden", "cli/test_next_command",
        "cli/test_plan", "llama/dryrun/test_client", "planner/search/test_alternatives",
        "planner/search/test_unknown_speeds", "planner/test_paste_back", "server/test_real_engine",
        "server/test_schemathesis", "server/test_soak", "test_docs", "test_examples", "test_journeys",
    )
)  # fmt: skip


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files without a test that -m chooses: each process of pytest-xdist imports all others."""
    if not collection_path.name.startswith("test_") or collection_path.suffix != ".py":
        return None
    text = collection_path.read_text(encoding="utf-8")
    return None if may_choose(text, config.getoption("markexpr")) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first; otherwise the order stays."""
    items.sort(key=lambda item: item.nodeid.partition("::")[0] not in _LONGEST_FILES)


def pytest_collection_finish() -> None:
    """Fetch what the collected tests read, while a process may be started for it.

    Thousands of collected tests live to the end: the garbage collector need not look through them again.
    """
    gc.freeze()
    if "tests.chat.templates" in sys.modules:
        with contextlib.suppress(SetupError):  # the tests themselves then say what is missing
            fetched_templates()


# -- fixtures ------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Folders of this process's own for data, caches and configuration: nothing that this machine's user has
    measured or set decides a test, and tests in two processes share no file.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in (DATA_DIR_VARIABLE, CACHE_DIR_VARIABLE, CONFIG_DIR_VARIABLE):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_dry_run_is_left() -> Iterator[None]:
    yield
    end_shared_dry_run()


@pytest.fixture(scope="session")
def host() -> Host:
    """A host with room for every model of these tests. One thread is the quickest for models so small."""
    return Host(name="test", cores=1, total_bytes=16 * GIB, available_bytes=16 * GIB)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of four layers and 320 tokens, half a megabyte."""
    return write_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="session")
def workers() -> Iterator[tuple[str, ...]]:
    """Addresses of three RPC workers. Each serves one program at a time."""
    with running_workers(3) as endpoints:
        yield endpoints


@pytest.fixture(scope="session")
def demo_server() -> Iterator["Serving"]:
    """`vram-llm serve demo`, healthy. It is for all tests: none may end it."""
    from tests.server.live import serving  # not above: it takes seconds to load the SDKs

    with serving("demo") as served:
        served.await_health()
        yield served


@pytest.fixture(scope="session")
def plan_on_cpu(tiny_model: Path, host: Host) -> PlanOnCpu:
    """Makes a plan that keeps the tiny model, or that at `path`, on the processor; the rest is Workload's."""

    def make(path: Path = tiny_model, **workload: Any) -> Plan:
        wish = Workload(**{"reserve_bytes": 0, "n_ctx": 512, "parallel": 4, **workload})
        return make_plan(detection.analyze(str(path)), Machine(devices=(), host=host), wish)

    return make
