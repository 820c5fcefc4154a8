"""vram-llm bench serve: latency and throughput of a running server, as `vllm bench serve` reports them."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vram_llm._version import __version__
from vram_llm.cli import terminal
from vram_llm.cli.bench_serve_options import (
    SeveralValuesCommand,
    bench_serve_options,
    checked_url,
    load_test,
    server_url,
)
from vram_llm.errors import RequestError

if TYPE_CHECKING:
    from vram_llm.bench.load_test import LoadTest, LoadWatch
    from vram_llm.bench.stream_client import StreamClient

_T = TypeVar("_T")
_CONNECTIONS = 65_536


@click.command("serve", cls=SeveralValuesCommand)
@bench_serve_options
def serve(options: dict[str, Any]) -> None:
    """Send requests to a running server, and report its latency and throughput.

    The server is any OpenAI endpoint: vram-llm, vLLM, llama-server. Options, table and JSON are those of
    `vllm bench serve`. Ctrl+C ends the load, and prints what was measured.
    """
    test = load_test(options)
    if options["compare"] is not None:
        _compare(test, options)
    elif options["sweep"]:
        _sweep(test, options)
    else:
        _one_load(test, options)


def _one_load(test: "LoadTest", options: dict[str, Any]) -> None:
    from vram_llm.bench.load_test import run_test
    from vram_llm.cli.load_results import figures_of, report_of, save_result, say_errors

    result = _run(options, (server_url(options),), lambda clients, watch: run_test(clients[0], test, watch))
    if result.run.was_interrupted:
        terminal.say(f"interrupted after {len(result.run.outcomes)} of {test.n_prompts} requests", err=True)
    report = report_of(test.shape, options)
    for line in report.table(result.metrics):
        terminal.say(line)
    say_errors(result)
    save_result(result.model, test.shape, figures_of(report, result, options), options)
    if result.metrics.failed and not result.metrics.completed:
        raise RequestError(f"none of {result.metrics.failed} requests was answered")


def _sweep(test: "LoadTest", options: dict[str, Any]) -> None:
    from vram_llm.bench.load_test import LoadResult, LoadWatch, open_server
    from vram_llm.bench.plot import plot_sweep
    from vram_llm.bench.sweep import LoadPoint, knee, sweep
    from vram_llm.cli.load_results import figures_of, report_of, save_result, say_errors
    from vram_llm.cli.load_tables import print_sweep
    from vram_llm.pictures.canvas import check_picture

    if options["plot"] is not None:
        check_picture(options["plot"])
    results: dict[int, LoadResult] = {}

    async def measure(clients: "Sequence[StreamClient]", watch: LoadWatch) -> tuple[LoadPoint, ...]:
        server = await open_server(clients[0], test, watch)
        return await sweep(server, test, lambda point, result: results.update({point.concurrency: result}))

    url = server_url(options)
    points = _run(options, (url,), measure)
    if not points:
        raise click.Abort
    print_sweep(points)
    loads = []
    for load, result in sorted(results.items()):
        say_errors(result)
        report = report_of(replace(test.shape, max_concurrency=load), options)
        loads.append({"max_concurrency": load, **figures_of(report, result, options)})
    model = results[points[0].concurrency].model
    if options["plot"] is not None:
        plot_sweep(points, f"{model} at {url}", options["plot"])
        terminal.say(f"saved: {options['plot']}", err=True)
    best = knee(points)
    found = {"knee_concurrency": best.concurrency if best else None, "loads": loads}
    save_result(model, test.shape, found, options)


def _compare(test: "LoadTest", options: dict[str, Any]) -> None:
    from vram_llm.bench.comparison import compare, compared
    from vram_llm.bench.load_test import LoadResult, LoadWatch, open_server
    from vram_llm.cli.load_results import save_result, say_errors
    from vram_llm.cli.load_tables import print_comparison

    async def measure(
        clients: "Sequence[StreamClient]", watch: LoadWatch
    ) -> tuple[tuple[LoadResult, LoadResult], ...]:
        first = await open_server(clients[0], test, watch)
        second = await open_server(clients[1], replace(test, model=options["compare_model"]), watch)
        return await compare((first, second), test, options["rounds"])

    urls = (server_url(options), checked_url(options["compare"]))
    rounds = _run(options, urls, measure)
    if not rounds:
        raise click.Abort
    figures = compared([(one.metrics, two.metrics) for one, two in rounds])
    print_comparison(urls, figures, len(rounds))
    for result in (result for pair in rounds for result in pair):
        say_errors(result)
    rows = [{"name": each.name, "first": each.first, "second": each.second} for each in figures]
    found = {"first": urls[0], "second": urls[1], "figures": rows}
    save_result(rounds[0][0].model, test.shape, found, options)


def _run(
    options: dict[str, Any],
    urls: Sequence[str],
    work: "Callable[[Sequence[StreamClient], LoadWatch], Coroutine[Any, Any, _T]]",
) -> _T:
    """Run with a client of each server and a bar, in uvloop, which spends less on each piece of a stream.

    Ctrl+C cancels the work.
    """
    import uvloop

    from vram_llm.cli.load_bar import load_bar

    async def measure() -> _T:
        clients = [_client(url, options) for url in urls]
        try:
            with load_bar(hidden=options["disable_tqdm"]) as watch:
                return await work(clients, watch)
        finally:
            for client in clients:
                client.close()

    _allow_many_connections()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measure())


def _client(url: str, options: dict[str, Any]) -> "StreamClient":
    from vram_llm.bench.stream_client import StreamClient

    headers = {"User-Agent": f"vram-llm/{__version__}", "Accept": "*/*"}
    if options["api_key"]:
        headers["Authorization"] = f"Bearer {options['api_key']}"
    return StreamClient(url, headers | dict(options["headers"]), insecure=options["insecure"])


def _allow_many_connections() -> None:
    """Raise this process's limit of open files, which are connections here, as far as the system lets it."""
    import resource

    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _CONNECTIONS if most == resource.RLIM_INFINITY else min(most, _CONNECTIONS)
    with suppress(ValueError, OSError):  # macOS allows fewer than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(now, wanted), most))
