"""Publishes on job.submit whatever it is told to, also what no client should send.

Arguments: URL USER PASSWORD TENANT. Reads one JSON object a line from standard input,
{"payload": BASE16, "headers": {...}}, and answers each with the PubAck or the error.
"""

import asyncio
import base64
import json
import sys

import nats


async def main(url, user, password, tenant):
    nc = await nats.connect(url, user=user, password=password)
    js = nc.jetstream()
    for text in sys.stdin:
        line = json.loads(text)
        payload = base64.b16decode(line["payload"])
        ack = await js.publish(f"within.v1.{tenant}.job.submit", payload, headers=line["headers"] or None)
        print(json.dumps({"sequence": ack.seq, "duplicate": bool(ack.duplicate)}), flush=True)
    await nc.close()


asyncio.run(main(*sys.argv[1:]))
