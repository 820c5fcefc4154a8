#!/usr/bin/env bash
# The same with curl: examples/chat.sh QUESTION [BASE_URL]
set -euo pipefail
question=${1:?usage: examples/chat.sh QUESTION [BASE_URL]}
base_url=${2:-http://127.0.0.1:8080/v1}
body=$(python3 -c 'import json, sys; print(json.dumps({"model": "", "max_tokens": 200, "messages": [{"role": "user", "content": sys.argv[1]}]}))' "$question")
curl --silent --show-error --fail-with-body "$base_url/chat/completions" -H 'Content-Type: application/json' -d "$body"
