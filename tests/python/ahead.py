"""A worker of the next version: its messages are one schema version ahead and hold fields that nobody knows yet.

Arguments: URL USER PASSWORD TENANT. Reads one JSON object a line from standard input and answers each with one line:
{"do": "prepare", "output": ...}   is a data_loader called "next" for one task: heartbeats, pull, claim, events, report
{"do": "rewrite", "record": JOB}   writes the job's record as the next version would
{"do": "rewrite", "work": SUBJECT} replaces a queued work message by that of the next version
"""

import asyncio
import itertools
import json
import sys

import msgpack
import nats

ROOT = f"within.v1.{sys.argv[4]}"
JSON = {"Content-Type": "application/cloudevents+json"}
MSGPACK = {"Content-Type": "application/cloudevents+msgpack"}
UNKNOWN = {"deep": [{"x": "y"}, 1.5, None]}
COUNT = itertools.count(1)


def envelope(kind, data, **more):
    return {
        "specversion": "1.0",
        "id": f"next.{next(COUNT)}",
        "source": "/within/worker/next",
        "type": kind,
        "withinschema": 2,
        "tenant": sys.argv[4],
        "inventedlater": UNKNOWN,
        "data": {**data, "invented_later": UNKNOWN},
        **more,
    }


def unpack(message):
    kind = (message.headers or {}).get("Content-Type", "")
    return msgpack.unpackb(message.data) if "msgpack" in kind else json.loads(message.data)


async def ask(nc, verb, kind, data, **more):
    event = msgpack.packb(envelope(kind, data, **more))
    answer = await nc.request(f"{ROOT}.svc.coordinator.{verb}", event, timeout=30, headers=MSGPACK)
    return unpack(answer)["data"]


async def beat(nc, held):
    while True:
        data = {
            "worker": "next", "role": "data_loader", "host": "next", "pid": 1, "build": "9.9.9", "fingerprint": "next",
            "slots": 1, "slots_free": 1 - len(held), "held": held, "draining": False, "sequence": next(COUNT),
        }
        event = envelope("within.worker.heartbeat", data)
        await nc.publish(f"{ROOT}.hb.data_loader.next", json.dumps(event).encode(), headers=JSON)
        await asyncio.sleep(0.3)


async def tell(nc, job, fence):
    """Events and a log line of the next version; one event is of a type that nobody knows yet."""
    more = {"jobid": job, "attempt": 1, "fence": fence}
    hook = {"event": "hook", "hook": "on_something_new", "epoch": 0, "detail": None}
    new = {"event": "invented_later", "task": "prepare"}
    for name, data in [("hook", hook), ("invented_later", new)]:
        event = envelope(f"within.job.{name}", data, **more)
        await nc.jetstream().publish(f"{ROOT}.evt.{job}.{name}", json.dumps(event).encode(), headers=JSON)
    line = {"timestamp": "2030-01-01T00:00:00Z", "level": "INFO", "module": "next", "message": "said by the next version"}
    event = envelope("within.log.line", line, jobid=job)
    await nc.publish(f"{ROOT}.log.{job}.prepare", json.dumps(event).encode(), headers=JSON)


async def prepare(nc, output):
    held = []
    beats = asyncio.create_task(beat(nc, held))
    queue = await nc.jetstream().pull_subscribe_bind("work_data_loader", "WITHIN_WORK")
    message = (await queue.fetch(1, timeout=60))[0]
    work = unpack(message)["data"]
    named = {"job": work["job"], "task": work["task"], "attempt": work["attempt"]}
    claim = await ask(nc, "claim", "within.task.claim", {**named, "worker": "next"})
    fence = claim["ok"]["fence"]
    held.append({**named, "fence": fence})
    await tell(nc, work["job"], fence)
    # Longer than a worker may be silent: its heartbeats keep the lease.
    await asyncio.sleep(3)
    body = {"report": "done", "output": {**output, "invented_later": UNKNOWN}, "invented_later": UNKNOWN}
    report = {**named, "fence": fence, "worker": "next", "body": body}
    report = await ask(nc, "report", "within.task.report", report)
    await message.ack_sync()
    beats.cancel()
    return {"job": work["job"], "claim": claim, "report": report}


async def rewrite_record(nc, job):
    js, subject = nc.jetstream(), f"$KV.WITHIN_JOB.{job}"
    last = await js.get_last_msg("KV_WITHIN_JOB", subject)
    record = msgpack.unpackb(last.data)
    record["schema"] = 2
    record["invented_later"] = UNKNOWN
    for task in record["tasks"]:
        task["invented_later"] = UNKNOWN
    headers = {"Nats-Expected-Last-Subject-Sequence": str(last.seq)}
    stored = await js.publish(subject, msgpack.packb(record), headers=headers)
    return {"revision": stored.seq}


async def rewrite_work(nc, subject):
    js = nc.jetstream()
    last = await js.get_last_msg("WITHIN_WORK", subject)
    work = msgpack.unpackb(last.data)
    await js.delete_msg("WITHIN_WORK", last.seq)
    work["withinschema"] = 2
    work["inventedlater"] = UNKNOWN
    work["data"]["invented_later"] = UNKNOWN
    work["data"]["input"]["invented_later"] = UNKNOWN
    stored = await js.publish(subject, msgpack.packb(work), headers=MSGPACK)
    return {"sequence": stored.seq}


async def main(url, user, password, tenant):
    nc = await nats.connect(url, user=user, password=password)
    for text in sys.stdin:
        line = json.loads(text)
        if line["do"] == "prepare":
            out = await prepare(nc, line["output"])
        elif "record" in line:
            out = await rewrite_record(nc, line["record"])
        else:
            out = await rewrite_work(nc, line["work"])
        print(json.dumps(out), flush=True)
    await nc.close()


asyncio.run(main(*sys.argv[1:]))
