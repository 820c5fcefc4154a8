"""Four agents read a legacy code base and say how to modernise it, over one OpenAI endpoint.

python -m examples.modernizer FOLDER --base-url http://127.0.0.1:8080/v1 --context 32768

`code_base` loads and counts, `parts` cuts to the context, `agents` says what is asked, `client` asks and
keeps answers, `levels` goes from parts to modules to the system, `costs` compares with prices.
"""
