"""Publishes with the NATS client for Python and reads the answers with the OpenAI package.

NATS_URL names a server on which a processor works, with the simulated model.
"""

import asyncio
import importlib.metadata
import json
import os
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import nats
import openai
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

TENANT = "python"
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Why is the sky blue? Air scatters blue light most."}]}
EMBEDDINGS = {"model": "text-embedding-3-small", "input": ["one", "two"]}


async def ask(nc, id, body):
    """Publishes a request, and gives its answer and the chunks that came before."""
    answers = await nc.subscribe(f"llm.responses.{TENANT}.{id}")
    deltas = await nc.subscribe(f"llm.deltas.{TENANT}.{id}")
    ack = await nc.jetstream().publish(f"llm.requests.{TENANT}", json.dumps(body).encode(), headers={"Llm-Id": id})
    assert ack.stream == "LLM_REQUESTS" and not ack.duplicate, ack
    live = await answers.next_msg(timeout=30)
    stored = None
    while stored is None or (stored.headers or {}).get("Status") == "404":  # subscribers hear it before it is stored
        stored = await nc.request(f"$JS.API.DIRECT.GET.LLM_RESPONSES.llm.responses.{TENANT}.{id}", b"", timeout=5)
    assert stored.data == live.data, "the stored answer is another one"
    chunks = []
    for _ in range(deltas.pending_msgs):
        chunks.append((await deltas.next_msg(timeout=5)).data)
    return live.data, chunks


async def missed(nc, id):
    """Gives the stored chunks of an answer, as who comes late reads them."""
    replies = await nc.subscribe(inbox := nc.new_inbox())
    await nc.publish(f"llm.missed.{TENANT}.{id}", b"", reply=inbox)
    chunks = []
    async for m in replies.messages:
        if "Status" in m.headers:
            await replies.unsubscribe()
            return chunks
        assert int(m.headers["Llm-Delta"]) == len(chunks) + 1, "a chunk is missing"
        chunks.append(m.data)


async def cancelled(nc, id, body):
    """Publishes a request and cancels it at once: it is answered, one way or the other."""
    answers = await nc.subscribe(f"llm.responses.{TENANT}.{id}")
    await nc.jetstream().publish(f"llm.requests.{TENANT}", json.dumps(body).encode(), headers={"Llm-Id": id})
    await nc.request(f"llm.cancel.{TENANT}.{id}", b"", timeout=5)
    answer = json.loads((await answers.next_msg(timeout=30)).data)
    assert answer.get("choices") or answer["error"]["code"] == "cancelled", answer


@contextmanager
def client(content, status=200, kind="application/json"):
    """An OpenAI client whose server answers with the given bytes."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with openai.OpenAI(api_key="none", base_url=f"http://127.0.0.1:{server.server_port}", max_retries=0) as c:
            yield c
        server.shutdown()


async def main():
    nc = await nats.connect(os.environ["NATS_URL"])

    answer, _ = await ask(nc, "py-chat", CHAT)
    ChatCompletion.model_validate_json(answer, strict=True)
    with client(answer) as c:
        completion = c.chat.completions.create(**CHAT)
    assert completion.choices[0].message.content, completion
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens > 0
    assert completion.processor["id"] == "py-chat" and completion.processor["tenant"] == TENANT

    streamed = {**CHAT, "stream": True, "processor": {"cache": {"mode": "off"}}}
    answer, chunks = await ask(nc, "py-stream", streamed)
    assert len(chunks) > 1, "no chunks"
    assert await missed(nc, "py-stream") == chunks, "a late reader gets others"
    for chunk in chunks:
        ChatCompletionChunk.model_validate_json(chunk, strict=True)
    events = b"".join(b"data: " + chunk + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
    with client(events, kind="text/event-stream") as c:
        stream = c.chat.completions.create(**CHAT, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text == ChatCompletion.model_validate_json(answer).choices[0].message.content, text

    # The same from the cache: one chunk with the whole, and one with the usage.
    for id in ("py-first", "py-cached"):
        answer, chunks = await ask(nc, id, {**CHAT, "stream": True, "stream_options": {"include_usage": True}})
    assert json.loads(answer)["processor"]["cache"] == "hit"
    whole, usage = (ChatCompletionChunk.model_validate_json(chunk, strict=True) for chunk in chunks)
    assert whole.choices[0].delta.content == text and whole.choices[0].finish_reason == "stop" and whole.usage is None
    assert usage.choices == [] and usage.usage.total_tokens == json.loads(answer)["usage"]["total_tokens"]

    await cancelled(nc, "py-cancelled", {**CHAT, "temperature": 1.5})

    answer, _ = await ask(nc, "py-embeddings", EMBEDDINGS)
    CreateEmbeddingResponse.model_validate_json(answer, strict=True)
    with client(answer) as c:
        vectors = c.embeddings.create(**EMBEDDINGS).data
    assert len(vectors) == 2 and len(vectors[0].embedding) > 1

    answer, _ = await ask(nc, "py-bad", {"model": "gpt-4o-mini"})
    with client(answer, status=400) as c:
        try:
            c.chat.completions.create(**CHAT)
            raise AssertionError("a bad request brought no error")
        except openai.BadRequestError as e:
            assert (e.type, e.code, e.param) == ("invalid_request_error", "missing_field", "messages"), e

    await nc.close()
    print("ok  \tclients for Python:", *(f"{name} {importlib.metadata.version(name)}" for name in ("nats-py", "openai")))


asyncio.run(main())
