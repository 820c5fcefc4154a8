"""vram-llm chat: a conversation at the terminal, with a running server or with a model loaded for it."""

import sys
from contextlib import closing
from typing import Any

import click

from vram_llm.cli.chat_arguments import check_serve_options, parse
from vram_llm.cli.chat_input import message_reader
from vram_llm.cli.complete_model import complete_model, same_model
from vram_llm.cli.key_options import METAVAR, VARIABLE, read_key
from vram_llm.cli.plan_options import built_in
from vram_llm.cli.short_flags import ShortFlagsCommand


@click.command("chat", cls=ShortFlagsCommand, context_settings={"ignore_unknown_options": True})
@click.argument("model", required=False, shell_complete=complete_model)
@click.argument("more", metavar="[OPTIONS OF SERVE]... [QUESTION]", nargs=-1, type=click.UNPROCESSED)
@same_model
@click.option("--url", metavar="URL", help="Chat with the server at URL; HOST:PORT is enough.")
@click.option(
    "--api-key",
    envvar=VARIABLE,
    metavar=METAVAR,
    callback=read_key,
    help="API key of the server, or @ and a file with it. Without this option $VRAM_LLM_API_KEY is read.",
)
@click.option("--system", metavar="TEXT", help="System message of the conversation.")
@click.option("--max-tokens", type=click.IntRange(1), help="Maximum tokens per answer.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="0 always takes the most likely token.")
def command(
    model: str | None,
    more: tuple[str, ...],
    model_option: str | None,
    url: str | None,
    api_key: str | None,
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
) -> None:
    """Chat with MODEL, loaded as by `vram-llm serve`, or with a running server: write HOST:PORT as MODEL.

    Options of `serve` (--n-ctx, --gpu ...) may follow MODEL. Without MODEL: the built-in one.

    With a QUESTION, the command prints the answer and ends; standard input, unless it is a terminal, is added
    to the question. Without a QUESTION, every line of standard input is a message. In a terminal, /help lists
    commands and keys.
    """
    from vram_llm.cli.local_server import serving

    arguments = parse(model, model_option, more, url)
    limits = {"max_tokens": max_tokens, "temperature": temperature}
    sampling = {name: value for name, value in limits.items() if value is not None}
    if arguments.address is not None:
        _chat(arguments.address, api_key, arguments.question, system, sampling, is_ours=False)
        return
    check_serve_options(arguments.serve_options)
    name = arguments.model or built_in("chatting with")
    with serving([name, *arguments.serve_options], api_key) as address:
        _chat(address, api_key, arguments.question, system, sampling, is_ours=True)


def _chat(
    address: str,
    api_key: str | None,
    question: str | None,
    system: str | None,
    sampling: dict[str, Any],
    *,
    is_ours: bool,
) -> None:
    """Answer the question if there is one, else hold a conversation.

    Raises ServerUnreachable, RequestError.
    """
    from vram_llm.cli.chat_client import ChatClient
    from vram_llm.cli.chat_commands import NAMES
    from vram_llm.cli.chat_repl import ChatSession
    from vram_llm.cli.conversation import Conversation
    from vram_llm.machine.json_store import folder

    with closing(ChatClient(address, api_key)) as client:
        session = ChatSession(client, client.model(), Conversation(system), sampling)
        if question is not None:
            piped = "" if sys.stdin.isatty() else sys.stdin.read().strip()
            session.ask(session.conversation.question(f"{question}\n\n{piped}" if piped else question))
        else:
            reader = message_reader(folder() / "chat_history", NAMES)
            session.run(reader, server_may_return=not is_ours)
