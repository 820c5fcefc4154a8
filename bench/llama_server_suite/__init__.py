"""llama-server's own test suite, run against llama-server as the control and against this server.

    python -m bench.llama_server_suite [--only FILE]... [--control-only]

The tests (tools/server/tests of llama.cpp) come out of llama-cpp-python's source distribution, so they are
those of the llama.cpp that both servers run. They start a server by llama-server's command line: `launcher`
stands in its place, puts files made here where the tests name models of a hub, and starts one of the two.
A test counts if the control passes it and if it asks only for the OpenAI and Anthropic API (`routes`).
Each counted test that fails on this server needs a reason (`reasons`), or the program exits with 1.
"""
