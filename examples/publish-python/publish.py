"""All that an application does, with nats-py alone: python publish.py "Why is the sky blue?" """
import asyncio, json, os, sys, uuid
import nats
async def main(tenant="python"):
    nc = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    def chat(**more): return json.dumps({"messages": [{"role": "user", "content": sys.argv[1]}], **more}).encode()
    async def publish(id, body):  # a lost acknowledgement is no harm: the id makes it one request
        ack = await nc.jetstream().publish(f"llm.requests.{tenant}", body, headers={"Llm-Id": id})
        assert not ack.duplicate, "not accepted"
    async def stored(id):  # any time within a day; None while there is no answer
        reply = await nc.request(f"$JS.API.DIRECT.GET.LLM_RESPONSES.llm.responses.{tenant}.{id}", b"")
        return None if (reply.headers or {}).get("Status") == "404" else json.loads(reply.data)
    async def follow(id):  # what came before, then what comes: by attempt and number, each chunk once
        live = await nc.subscribe(f"llm.deltas.{tenant}.{id}")
        before = await nc.subscribe(inbox := nc.new_inbox())
        await nc.publish(f"llm.missed.{tenant}.{id}", b"", reply=inbox)
        attempt, number = "", 0
        for source in (before, live):
            async for m in source.messages:
                if "Status" in m.headers: break  # all that was stored
                if m.headers["Llm-Attempt"] != attempt: attempt, number = m.headers["Llm-Attempt"], 0
                if int(m.headers["Llm-Delta"]) == number + 1:
                    number += 1
                    yield (chunk := json.loads(m.data))
                if any(choice.get("finish_reason") for choice in chunk["choices"]): return
    async def answer(id, body, cancel=False):
        response = await nc.subscribe(f"llm.responses.{tenant}.{id}")
        await publish(id, body)
        if cancel: await nc.request(f"llm.cancel.{tenant}.{id}", b"")
        return json.loads((await response.next_msg(timeout=60)).data)
    ids = [f"py-{uuid.uuid4().hex}" for _ in range(3)]
    print("answer:", await answer(ids[0], chat()))
    await publish(ids[1], chat(stream=True, processor={"cache": {"mode": "off"}}))
    async for chunk in follow(ids[1]): print("chunk:", chunk["choices"][0]["delta"])
    print("cancelled:", await answer(ids[2], chat(temperature=1.5), cancel=True))
    await nc.jetstream().publish(f"llm.feedback.{tenant}", json.dumps({"id": ids[0], "score": 1}).encode())
    print("later:", (await stored(ids[0]))["processor"]["id"])
asyncio.run(main())
