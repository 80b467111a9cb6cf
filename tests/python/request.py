"""A client that speaks MessagePack: asks svc.coordinator.submit, then follows the job's events.

Arguments: URL USER PASSWORD TENANT. Reads one JSON object a line from standard input,
{"id": ..., "spec": ..., "follow": bool}, and answers each with one line.
"""

import asyncio
import json
import sys

import msgpack
import nats

CONTENT = "application/cloudevents+msgpack"


def unpack(message):
    kind = (message.headers or {}).get("Content-Type", "")
    return msgpack.unpackb(message.data) if "msgpack" in kind else json.loads(message.data)


async def ask(nc, tenant, line):
    event = {
        "specversion": "1.0",
        "id": line["id"],
        "source": line.get("source", "urn:example:shop"),
        "type": "within.job.submit",
        "data": {"spec": line["spec"]},
    }
    subject = f"within.v1.{tenant}.svc.coordinator.submit"
    headers = {"Content-Type": CONTENT}
    answer = await nc.request(subject, msgpack.packb(event), timeout=30, headers=headers)
    return answer.headers["Content-Type"], unpack(answer)["data"]


async def follow(nc, tenant, job):
    events = await nc.jetstream().subscribe(f"within.v1.{tenant}.evt.{job}.*", ordered_consumer=True)
    kinds = []
    while True:
        event = unpack(await events.next_msg(timeout=120))
        kinds.append(event["type"])
        if event["data"]["event"] in ("completed", "failed", "cancelled", "rejected"):
            return {"types": kinds, "last": event}


async def main(url, user, password, tenant):
    nc = await nats.connect(url, user=user, password=password)
    for text in sys.stdin:
        line = json.loads(text)
        content, answer = await ask(nc, tenant, line)
        out = {"content": content, "answer": answer}
        if line.get("follow"):
            out["followed"] = await follow(nc, tenant, line["id"])
        print(json.dumps(out), flush=True)
    await nc.close()


asyncio.run(main(*sys.argv[1:]))
