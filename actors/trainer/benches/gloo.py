"""all_reduce of Gloo between two processes on loopback: a JSON object of seconds, by message size in bytes.

Arguments: repeats, then sizes in bytes. Run by benches/collective.rs with a Python that has torch.
"""
import json
import os
import sys
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def worker(rank, store, repeats, sizes, result):
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
    seconds = {}
    for size in sizes:
        x = torch.ones(size // 4)
        count = repeats * 20 if size < 1 << 20 else repeats
        times = []
        for _ in range(count + 5):
            x.fill_(1.0)
            dist.barrier()
            begun = time.perf_counter()
            dist.all_reduce(x)
            times.append(time.perf_counter() - begun)
        if x[-1].item() != 2.0:
            raise SystemExit("all_reduce gave a wrong sum")
        seconds[str(size)] = times[5:]
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        with open(result, "w") as out:
            json.dump(seconds, out)


def main():
    repeats, sizes = int(sys.argv[1]), [int(size) for size in sys.argv[2:]]
    with tempfile.TemporaryDirectory() as folder:
        result = os.path.join(folder, "result.json")
        mp.spawn(worker, args=(os.path.join(folder, "store"), repeats, sizes, result), nprocs=2)
        with open(result) as made:
            print(json.dumps(json.load(made)))


if __name__ == "__main__":
    main()
