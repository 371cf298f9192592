#!/usr/bin/env bash
# Sends requests.jsonl through the whole pipeline to the model that install.sh
# has installed, and prints figures: run.sh DIRECTORY [PROCESSOR]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=$(realpath -s "$1")/bin/python
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; wait; rm -rf "$work"' EXIT
processor=$(realpath "${2:-$work/processor}")
[ $# -gt 1 ] || (cd "$here" && go build -o "$processor" ../../cmd/processor)

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export LOCAL_MODEL_URL=http://127.0.0.1:$port/v1
until_it_says() { # until_it_says WORD FILE
  for _ in $(seq 600); do grep -q "$1" "$2" && return; sleep 0.1; done
  cat "$2"; return 1
}
"$python" "$here/serve.py" "$port" >"$work/model.log" 2>&1 &
until_it_says 'llama.cpp serves' "$work/model.log"
cd "$work"
"$processor" run --config "$here/processor.yaml" 2>"$work/run.log" &
until_it_says serving "$work/run.log"

"$processor" batch --config "$here/processor.yaml" "$here/requests.jsonl" -o answers.jsonl
echo
echo '$ processor ask --stream "What is the capital of Italy?"'
# A base model goes on for ever, so three seconds of it are enough.
timeout 3 "$processor" ask --config "$here/processor.yaml" --model gemma-3-270m --stream "What is the capital of Italy?" || [ $? = 124 ]
echo; echo
"$python" "$here/figures.py" "$here/requests.jsonl" answers.jsonl
