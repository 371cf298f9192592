"""Checks what the model answered through the pipeline, and prints figures: figures.py REQUESTS ANSWERS"""

import json
import statistics
import sys

requests, answers = (
    {line["custom_id"]: line for line in map(json.loads, open(name))} for name in sys.argv[1:]
)
assert requests.keys() == answers.keys(), "not every request has an answer"
bodies = {}
for id, line in answers.items():
    assert line["error"] is None and line["response"]["status_code"] == 200, line
    bodies[id] = line["response"]["body"]
chats = {id: body for id, body in bodies.items() if "choices" in body}
text = {id: body["choices"][0]["message"]["content"] for id, body in chats.items()}
for id, said in text.items():
    print(f"{id:13} {chats[id]['processor']['cache']:7} {json.dumps(said)[:90]}")

for id in ("fields-1", "fields-2"):
    fields = json.loads(text[id])
    assert fields.keys() == {"city", "year"} and isinstance(fields["year"], int), fields
for id in ("capital-2", "sky-again", "sky-streamed"):
    assert chats[id]["processor"]["cache"] in ("hit", "shared", "miss"), chats[id]
shared = [id for id, body in chats.items() if body["processor"]["cache"] in ("hit", "shared")]
assert len(shared) == 3, f"{len(shared)} of 3 repeated questions were not asked again"
assert text["sky"] == text["sky-again"] == text["sky-streamed"]
vectors = [item["embedding"] for item in bodies["vectors-1"]["data"]] + [bodies["vectors-2"]["data"][0]["embedding"]]
assert len(vectors) == 4 and len({len(v) for v in vectors}) == 1, "the vectors differ in size"


def similar(a, b):
    dot = sum(x * y for x, y in zip(a, b))
    return dot / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5


assert similar(vectors[0], vectors[1]) > similar(vectors[0], vectors[2]), "cat and kitten are not alike"

called = {id: body for id, body in chats.items() if id not in shared}
took = sorted(body["processor"]["stages"]["generate"]["ran_ms"] for body in called.values())
timings = [body["timings"] for body in called.values() if "timings" in body]
saved = sum(body["processor"]["tokens"]["saved"] for body in chats.values())
original = sum(body["processor"]["tokens"]["prompt_original"] for body in chats.values())
reused = sum(body["usage"]["total_tokens"] for id, body in chats.items() if id in shared)
assert saved > 0, "compression saved nothing"
print()
print(f"{len(chats)} chats and 2 embeddings of {len(vectors[0])} dimensions, {len(called)} chats by the model, {len(shared)} from the cache or a shared call ({reused} tokens)")
print(f"prompts: {original} tokens, {saved} saved by compression ({saved / original:.0%})")
print(f"calls: {statistics.median(took):.0f} ms at the median, {took[-1]:.0f} ms at most, up to 4 at once")
if timings:
    print(f"the model: {statistics.median(t['predicted_per_second'] for t in timings):.0f} tokens/s each at the median, by its own count")
