// Publishes with the NATS client for JavaScript and reads the answers with the
// OpenAI package. NATS_URL names a server on which a processor works, with the
// simulated model.
import assert from "node:assert/strict";
import { connect, headers } from "@nats-io/transport-node";
import { jetstream } from "@nats-io/jetstream";
import OpenAI from "openai";
import { ChatCompletionStream } from "openai/lib/ChatCompletionStream";

const tenant = "node";
const chat = {
  model: "gpt-4o-mini",
  messages: [{ role: "user", content: "Why is the sky blue? Air scatters blue light most." }],
};
const embeddings = { model: "text-embedding-3-small", input: ["one", "two"], encoding_format: "float" };

const nc = await connect({ servers: process.env.NATS_URL });
const js = jetstream(nc);

// ask publishes a request, and gives its answer and the chunks that came before.
async function ask(id, body) {
  const answers = nc.subscribe(`llm.responses.${tenant}.${id}`, { max: 1, timeout: 30_000 });
  const chunks = [];
  nc.subscribe(`llm.deltas.${tenant}.${id}`, { callback: (_, m) => chunks.push(m.string()) });
  const h = headers();
  h.set("Llm-Id", id);
  const ack = await js.publish(`llm.requests.${tenant}`, JSON.stringify(body), { headers: h });
  assert.equal(ack.stream, "LLM_REQUESTS");
  assert.equal(ack.duplicate, false);
  let live;
  for await (const m of answers) live = m.string();
  let stored;
  do { // subscribers hear it before it is stored
    stored = await nc.request(`$JS.API.DIRECT.GET.LLM_RESPONSES.llm.responses.${tenant}.${id}`, "", { timeout: 5000 });
  } while (stored.headers?.code === 404);
  assert.equal(stored.string(), live, "the stored answer is another one");
  return { answer: live, chunks };
}

// client gives an OpenAI client whose server answers with the given text.
function client(content, { status = 200, type = "application/json" } = {}) {
  const fetch = async () => new Response(content, { status, headers: { "content-type": type } });
  return new OpenAI({ apiKey: "none", baseURL: "http://stored", maxRetries: 0, fetch });
}

{
  const { answer } = await ask("js-chat", chat);
  const completion = await client(answer).chat.completions.create(chat);
  assert.equal(completion.object, "chat.completion");
  assert.ok(completion.choices[0].message.content);
  assert.ok(completion.usage.total_tokens > 0);
  assert.equal(completion.processor.id, "js-chat");
}
{
  const { answer, chunks } = await ask("js-stream", { ...chat, stream: true, processor: { cache: { mode: "off" } } });
  assert.ok(chunks.length > 1, "no chunks");
  const events = chunks.map((c) => `data: ${c}\n\n`).join("") + "data: [DONE]\n\n";
  const runner = client(events, { type: "text/event-stream" }).chat.completions.stream(chat);
  const whole = await runner.finalChatCompletion();
  assert.equal(whole.choices[0].message.content, JSON.parse(answer).choices[0].message.content);
}
{
  // The same from the cache: one chunk with the whole, and one with the usage.
  const body = { ...chat, stream: true, stream_options: { include_usage: true } };
  await ask("js-first", body);
  const { answer, chunks } = await ask("js-cached", body);
  assert.equal(JSON.parse(answer).processor.cache, "hit");
  assert.equal(chunks.length, 2);
  const lines = new ReadableStream({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(new TextEncoder().encode(chunk + "\n"));
      controller.close();
    },
  });
  const whole = await ChatCompletionStream.fromReadableStream(lines).finalChatCompletion();
  assert.equal(whole.choices[0].message.content, JSON.parse(answer).choices[0].message.content);
  assert.equal(JSON.parse(chunks[1]).usage.total_tokens, JSON.parse(answer).usage.total_tokens);
}
{
  const live = nc.subscribe(`llm.responses.${tenant}.js-cancelled`, { max: 1, timeout: 30_000 });
  const h = headers();
  h.set("Llm-Id", "js-cancelled");
  await js.publish(`llm.requests.${tenant}`, JSON.stringify({ ...chat, temperature: 1.5 }), { headers: h });
  await nc.request(`llm.cancel.${tenant}.js-cancelled`, "", { timeout: 5000 });
  for await (const m of live) assert.ok(m.json().choices || m.json().error.code === "cancelled", m.string());
}
{
  const { answer } = await ask("js-embeddings", embeddings);
  const { data } = await client(answer).embeddings.create(embeddings);
  assert.equal(data.length, 2);
  assert.ok(data[0].embedding.length > 1);
}
{
  const { answer } = await ask("js-bad", { model: "gpt-4o-mini" });
  await assert.rejects(client(answer, { status: 400 }).chat.completions.create(chat), (e) => {
    assert.ok(e instanceof OpenAI.BadRequestError);
    assert.deepEqual([e.type, e.code, e.param], ["invalid_request_error", "missing_field", "messages"]);
    return true;
  });
}
await nc.close();
console.log("ok  \tclients for Node: @nats-io/transport-node, openai");
