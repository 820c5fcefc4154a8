"""vram-llm chat: a conversation at the terminal, with a running server or straight with a model."""

from contextlib import closing

import click

from vram_llm.cli.chat_repl import Talk
from vram_llm.cli.local_server import serving
from vram_llm.cli.plan_options import built_in, one_model
from vram_llm.cli.short_flags import ShortFlagsCommand
from vram_llm.cli.stream import ChatServer


@click.command("chat", cls=ShortFlagsCommand, context_settings={"ignore_unknown_options": True})
@click.argument("model", required=False)
@click.argument("serve_options", nargs=-1, type=click.UNPROCESSED)
@click.option("--model", "-m", "model_option", metavar="MODEL", help="The same as the argument.")
@click.option("--url", metavar="URL", help="Chat with the server there: http://127.0.0.1:8080/v1.")
@click.option(
    "--api-key", envvar="VRAM_LLM_API_KEY", help="Key for that server; $VRAM_LLM_API_KEY is read too."
)
@click.option("--system", metavar="TEXT", help="What the model is told first.")
@click.option("--max-tokens", type=click.IntRange(1), help="Most tokens of one answer.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="0 always takes the most likely token.")
def command(
    model: str | None,
    serve_options: tuple[str, ...],
    model_option: str | None,
    url: str | None,
    api_key: str | None,
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
) -> None:
    """Chat with the server at --url, or load MODEL as `vram-llm serve` does and chat with that.

    Options of `serve` (--n-ctx, --gpu ...) may follow MODEL. Without either: the built-in model. Lines are
    read from standard input; /help in the chat says what else there is.
    """
    name = one_model(model, model_option)
    if name is not None and name.startswith("-"):
        raise click.UsageError(f"there is no option {name} here; options of `serve` follow the model")

    def talk(address: str) -> None:
        with closing(ChatServer(address, api_key)) as server:
            Talk(server, server.model(), system, max_tokens, temperature).run()

    if url is not None:
        if name is not None:
            raise click.UsageError("give a model to load, or --url of a server that has one: not both")
        talk(url)
        return
    with serving([name or built_in("chatting with"), *serve_options]) as address:
        talk(address)
