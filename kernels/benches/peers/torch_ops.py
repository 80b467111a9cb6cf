"""PyTorch's seconds for the cases of `make gpu-bench`, eager and compiled, one line of JSON a figure.

The only argument is a list of {"name", "precisions", "case"}. A first line tells torch's version. What torch cannot do is
left out; a reason goes to stderr. Without a GPU it runs on the CPU, which says nothing but that the script works.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KINDS = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def seconds(act):
    """Of one call, the best of three runs of as many as fill a tenth of a second."""

    def run(count):
        if DEVICE == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begin.record()
            for _ in range(count):
                act()
            end.record()
            end.synchronize()
            return begin.elapsed_time(end) / 1e3 / count
        begin = time.perf_counter()
        for _ in range(count):
            act()
        return (time.perf_counter() - begin) / count

    run(3)
    count = max(3, min(1000, int(0.1 / max(run(1), 1e-6)))) if DEVICE == "cuda" else 3
    return min(run(count) for _ in range(3))


def tensor(*shape, kind=torch.float32):
    return (torch.rand(*shape, device=DEVICE) * 2 - 1).to(kind).requires_grad_()


def operation(case, kind):
    """A function and what it is given; what needs a gradient is differentiated."""
    op = case["op"]
    if op in ("gelu", "multiply", "dropout", "softmax", "layer_norm", "cross_entropy"):
        x = tensor(case["rows"], case["columns"], kind=kind)
        if op == "gelu":
            return F.gelu, [x]
        if op == "multiply":
            return (lambda x: x * x), [x]
        if op == "dropout":
            return (lambda x: F.dropout(x, 0.1)), [x]
        if op == "softmax":
            return (lambda x: F.softmax(x, -1)), [x]
        if op == "layer_norm":
            gain, bias = tensor(case["columns"], kind=kind), tensor(case["columns"], kind=kind)
            return (lambda x, g, b: F.layer_norm(x, x.shape[1:], g, b)), [x, gain, bias]
        classes = torch.randint(case["columns"], (case["rows"],), device=DEVICE)
        return (lambda x: F.cross_entropy(x, classes)), [x]
    if op == "linear":
        x, w = tensor(case["rows"], case["inputs"], kind=kind), tensor(case["outputs"], case["inputs"], kind=kind)
        return F.linear, [x, w]
    if op == "conv":
        x = tensor(case["rows"], case["channels"], case["side"], case["side"], kind=kind)
        w = tensor(case["outputs"], case["channels"], 3, 3, kind=kind)
        x, w = (t.detach().to(memory_format=torch.channels_last).requires_grad_() for t in (x, w))
        return (lambda x, w: F.conv2d(x, w, padding=1)), [x, w]
    if op == "attention":
        shape = (case["rows"], case["heads"], case["items"], case["width"])
        return F.scaled_dot_product_attention, [tensor(*shape, kind=kind) for _ in range(3)]
    if op == "lstm":
        net = torch.nn.LSTM(case["hidden"], case["hidden"], batch_first=True).to(DEVICE, kind)
        x = tensor(case["rows"], case["steps"], case["hidden"], kind=kind)
        return (lambda x, *_: net(x)[0]), [x, *net.parameters()]
    if op == "embedding":
        ids = torch.randint(case["words"], (case["rows"], case["items"]), device=DEVICE)
        return (lambda words: F.embedding(ids, words)), [tensor(case["words"], case["width"], kind=kind)]
    raise ValueError(f"no operation is called {op}")


def both_ways(act, given):
    with torch.no_grad():
        forward = seconds(lambda: act(*given))
    y = act(*given)
    upstream = torch.ones_like(y)
    backward = seconds(lambda: torch.autograd.grad(y, given, upstream, retain_graph=True))
    whole = seconds(lambda: torch.autograd.grad(act(*given), given, upstream))
    return {"forward": forward, "backward": backward, "both ways": whole}


class AdScore(torch.nn.Module):
    """As `nn/ad_score.rs` has it, with default sizes: tokens, an image, numbers and a platform."""

    def __init__(self, case):
        super().__init__()
        width, heads, wide = 128, 4, 512
        self.words = torch.nn.Embedding(case["words"], width)
        self.places = torch.nn.Parameter(torch.randn(case["tokens"], width) * 0.02)
        layer = torch.nn.TransformerEncoderLayer(width, heads, wide, 0.1, "relu", batch_first=True)
        self.text = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        sizes = [3, 32, 64, 128]
        convs = [torch.nn.Conv2d(a, b, 3, 2, 1) for a, b in zip(sizes, sizes[1:])]
        self.visual = torch.nn.Sequential(*[part for conv in convs for part in (conv, torch.nn.ReLU())])
        self.platform = torch.nn.Embedding(case["platforms"], 8)
        self.table = self.layers([case["numbers"] + 8, 64, 64])
        self.head = self.layers([width + 128 + 64, 256, 256, 128])
        self.last = torch.nn.Linear(128, 1)

    @staticmethod
    def layers(sizes):
        pairs = zip(sizes, sizes[1:])
        return torch.nn.Sequential(*[part for a, b in pairs for part in (torch.nn.Linear(a, b), torch.nn.ReLU())])

    def forward(self, tokens, image, numbers, platform):
        text = self.text(self.words(tokens) + self.places).mean(1)
        visual = self.visual(image).mean((2, 3))
        table = self.table(torch.cat([numbers, self.platform(platform)], 1))
        return torch.sigmoid(self.last(self.head(torch.cat([text, visual, table], 1))))[:, 0]


def training(case, kind, compiled):
    """One step of AdamW in mixed precision; as ours, the batch comes from the host each time."""
    torch.manual_seed(1)
    net = AdScore(case).to(DEVICE)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=DEVICE == "cuda")
    forward = torch.compile(net) if compiled else net
    batch, side = case["batch"], case["side"]
    host = [
        torch.randint(case["words"], (batch, case["tokens"])),
        torch.rand(batch, 3, side, side),
        torch.rand(batch, case["numbers"]),
        torch.randint(case["platforms"], (batch,)),
        torch.rand(batch),
    ]
    if DEVICE == "cuda":
        host = [values.pin_memory() for values in host]

    def step():
        *inputs, targets = [values.to(DEVICE, non_blocking=True) for values in host]
        with torch.autocast(DEVICE, kind, enabled=kind != torch.float32):
            loss = F.mse_loss(forward(*inputs).float(), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1e9)
        optimizer.step()
        return loss.item()

    return step


def figures(case, kind, compiled):
    if case["op"] == "ad_score":
        return {"step": seconds(training(case, kind, compiled))}
    act, given = operation(case, kind)
    return both_ways(torch.compile(act) if compiled else act, given)


def main():
    print(json.dumps({"torch": torch.__version__, "device": DEVICE}), flush=True)
    for asked in json.loads(sys.argv[1]):
        for precision in asked["precisions"]:
            lines = {}
            for key, compiled in (("eager_s", False), ("compiled_s", True)):
                try:
                    for what, value in figures(asked["case"], KINDS[precision], compiled).items():
                        lines.setdefault(what, {})[key] = value
                except Exception as error:  # One figure less, and the others all the same.
                    print(f"{asked['name']} {precision} {key}: {error}", file=sys.stderr)
                torch.compiler.reset()
            for what, values in lines.items():
                print(json.dumps({"name": asked["name"], "what": what, "precision": precision, **values}), flush=True)


if __name__ == "__main__":
    main()
