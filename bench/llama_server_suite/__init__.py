"""llama-server's own test suite, run against llama-server as the control and against this server.

    python -m bench.llama_server_suite [--only FILE]... [--through serve] [--control-only]

The tests (tools/server/tests of llama.cpp) come from llama-cpp-python's source distribution, so they have the
version of the llama.cpp that both servers run. They start a server by llama-server's command line. `launcher`
takes llama-server's place: it replaces the hub's models by files made here, and starts one of the two
servers; this one by `vram-llm llama-server`, with the same arguments. A test counts if the control passes it,
and it needs no feature that is left out on purpose (`routes`); with --through serve, if it asks only for the
OpenAI and Anthropic API. Each counted test that fails on this server needs a reason (`reasons`), or the
program exits with 1.
"""
