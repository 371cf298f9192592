// All that an application does, with the NATS client alone: node publish.mjs "Why is the sky blue?"
import { connect, createInbox, headers } from "@nats-io/transport-node";
import { jetstream } from "@nats-io/jetstream";
const tenant = "js";
const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });
const chat = (more) => JSON.stringify({ messages: [{ role: "user", content: process.argv[2] }], ...more });
async function publish(id, body) { // a lost acknowledgement is no harm: the id makes it one request
  const h = headers();
  h.set("Llm-Id", id);
  const ack = await jetstream(nc).publish(`llm.requests.${tenant}`, body, { headers: h });
  if (ack.duplicate) throw new Error("not accepted");
}
async function answer(id, body, then = () => {}) {
  const live = nc.subscribe(`llm.responses.${tenant}.${id}`, { max: 1, timeout: 60_000 });
  await publish(id, body).then(then);
  for await (const m of live) return m.json();
}
const stored = async (id) => (await nc.request(`$JS.API.DIRECT.GET.LLM_RESPONSES.llm.responses.${tenant}.${id}`)).json();
async function* follow(id) { // what came before, then what comes: by attempt and number, each chunk once
  const live = nc.subscribe(`llm.deltas.${tenant}.${id}`);
  const reply = createInbox(), before = nc.subscribe(reply);
  nc.publish(`llm.missed.${tenant}.${id}`, "", { reply });
  let attempt = "", number = 0;
  for (const source of [before, live]) for await (const m of source) {
    if (m.headers.has("Status")) break; // that was all
    if (m.headers.get("Llm-Attempt") !== attempt) [attempt, number] = [m.headers.get("Llm-Attempt"), 0];
    if (Number(m.headers.get("Llm-Delta")) === number + 1) { number++; yield m.json(); }
    if (m.json().choices.some((c) => c.finish_reason)) return;
  }
}
const [first, second, third] = ["a", "b", "c"].map((c) => `js-${c}-${crypto.randomUUID()}`);
console.log("answer:", JSON.stringify(await answer(first, chat())));
await publish(second, chat({ stream: true, processor: { cache: { mode: "off" } } }));
for await (const chunk of follow(second)) console.log("chunk:", chunk.choices[0].delta);
const cancel = () => nc.request(`llm.cancel.${tenant}.${third}`);
console.log("cancelled:", JSON.stringify(await answer(third, chat({ temperature: 1.5 }), cancel)));
await jetstream(nc).publish(`llm.feedback.${tenant}`, JSON.stringify({ id: first, score: 1 }));
console.log("later:", (await stored(first)).processor.id); // any time within a day
await nc.close();
