#!/usr/bin/env bash
# All that an application does, with the nats command line: bash publish.sh "Why is the sky blue?"
set -euo pipefail
tenant=shell
chat() { printf '{"messages": [{"role": "user", "content": "%s"}]%s}' "$prompt" "$1"; }
prompt=$1
id() { echo "sh-$RANDOM$RANDOM$$"; }
publish() { nats req --raw -H "Llm-Id:$1" "llm.requests.$tenant" "$2"; } # prints the acknowledgement
stored() { nats req --raw "\$JS.API.DIRECT.GET.LLM_RESPONSES.llm.responses.$tenant.$1" '' | sed 's/^nil body$//'; }
await() { # waits for an answer; nothing is printed where there is none yet
  local answer
  for _ in $(seq 600); do
    answer=$(stored "$1")
    if [ -n "$answer" ]; then echo "$answer" && return; fi
    sleep 0.1
  done
  return 1
}
first=$(id) second=$(id) third=$(id)

publish "$first" "$(chat '')"
echo "answer: $(await "$first")"
echo "later: $(stored "$first")" # any time within a day

publish "$second" "$(chat ', "stream": true, "processor": {"cache": {"mode": "off"}}')"
await "$second" >/dev/null # its chunks are there for a minute; live: nats sub "llm.deltas.$tenant.*"
echo "chunks: $(nats req --raw --replies 0 --reply-timeout 500ms "llm.missed.$tenant.$second" '')"

publish "$third" "$(chat ', "temperature": 1.5')"
nats req --raw "llm.cancel.$tenant.$third" ''
echo "cancelled: $(await "$third")"

nats pub --jetstream "llm.feedback.$tenant" "{\"id\": \"$first\", \"score\": 1}" # or {"id": ..., "label": "..."}
