"""An S3 server with one bucket, `ads`, until its input ends: prints its port once the files are there. Needs moto."""

import sys

import boto3
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
client = boto3.client(
    "s3",
    endpoint_url=f"http://{host}:{port}",
    region_name="us-east-1",
    aws_access_key_id="test",
    aws_secret_access_key="test",
)
client.create_bucket(Bucket="ads")
for year in (2023, 2024):
    client.put_object(Bucket="ads", Key=f"data/year={year}/a.csv", Body=b"x,y\n" + b"1,2\n" * year * 1000)
for index in range(1200):
    client.put_object(Bucket="ads", Key=f"many/{index:04}.csv", Body=str(index).encode())
print(port, flush=True)
sys.stdin.read()
server.stop()
