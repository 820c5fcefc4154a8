"""Install client programs and let each hold a conversation: python -m tests.clients [NAME...]

Without names, all of them. Exit code 1 if any fails.
"""

import argparse
import contextlib

from tests.clients.catalog import CLIENTS, LM_EVAL
from tests.clients.conversation import WORDS, Client, Result, converse
from tests.clients.environments import NODE, ClientsError
from tests.clients.harness import log_likelihoods
from tests.clients.servers import Model, running

_ROW = "{:<23} {:<24} {:<9} {:<7} {:<9} {:<7} {:<14} {:>7}"


def main() -> int:
    """Run; the exit code."""
    parser = argparse.ArgumentParser(prog="make clients", description=__doc__)
    known = {client.name: client for client in CLIENTS}
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*known, LM_EVAL.name]))
    parser.add_argument("--lock", action="store_true", help="only renew the lock files of these clients")
    options = parser.parse_args()
    if unknown := set(options.names) - {*known, LM_EVAL.name}:
        parser.error(f"no such client: {', '.join(sorted(unknown))}")
    names = options.names or [*known, LM_EVAL.name]
    if options.lock:
        for name in names:
            (known[name].environment if name in known else LM_EVAL).renew()
        if not options.names:
            NODE.renew()
        return 0
    return _run([known[name] for name in names if name in known], LM_EVAL.name in names)


def _run(clients: list[Client], with_harness: bool) -> int:
    print(_ROW.format("client", "version", "model", *(way.replace("_", " ") for way in WORDS), "seconds"))
    failed = 0
    with contextlib.ExitStack() as stack:
        urls: dict[Model, str] = {}
        for client in clients:
            try:
                client.environment.install()
                if client.model not in urls:
                    urls[client.model] = stack.enter_context(running(client.model))
                result = converse(client, urls[client.model])
            except ClientsError as error:
                result = Result(dict.fromkeys(WORDS, "FAILED"), str(error), 0)
            failed += _show(client, result)
    failed += with_harness and not log_likelihoods(LM_EVAL)
    print(f"{failed} failed" if failed else "all clients work")
    return 1 if failed else 0


def _show(client: Client, result: Result) -> bool:
    version = client.version if client.environment.folder.exists() else "?"
    seconds = f"{result.seconds:.1f}"
    print(_ROW.format(client.name, version, client.model, *result.ways.values(), seconds), flush=True)
    if result.error:
        print(f"  {client.name}: {result.error}", flush=True)
    return bool(result.error)


if __name__ == "__main__":
    raise SystemExit(main())
