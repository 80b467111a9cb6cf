"""Writes ops.json beside this script: every operation over a few samples of different lengths as PyTorch 2.15 (CPU,
f32) computes it. A case has sizes, inputs, parameters, outputs, gradients of sum over samples of the mean square over
outputs, and for each number of the inputs and parameters the outputs that are NaN when it is (as runs "from-to" of
flat indices). The graphs are those of tests/it/ops/table.rs, by name.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 numpy
    venv/bin/python make_op_goldens.py
"""
import json
import os

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

torch.manual_seed(20261125)
torch.set_num_threads(1)

RAGGED = [3, 1, 5, 2]
WIDTH = 3


def flat(t):
    return [float(f"{float(v):.9g}") for v in t.detach().reshape(-1)]


def runs(mask):
    """Indices of True as runs: "0-2 5-5"."""
    found, begin = [], None
    for i, bad in enumerate(mask + [False]):
        if bad and begin is None:
            begin = i
        if not bad and begin is not None:
            found.append(f"{begin}-{i - 1}")
            begin = None
    return " ".join(found)


def poison(tensor, forward):
    """For each element, which outputs are NaN when it is."""
    found = []
    for i in range(tensor.numel()):
        with torch.no_grad():
            held = tensor.reshape(-1)[i].item()
            tensor.reshape(-1)[i] = float("nan")
            found.append(runs(torch.isnan(forward()).reshape(-1).tolist()))
            tensor.reshape(-1)[i] = held
    return found


def case(name, columns, forward, params=(), lengths=RAGGED, positive=False):
    """forward(samples, params) -> [samples, outputs]; params: [(name, shape)]."""
    x = torch.randn(sum(lengths), columns)
    x = (x.abs() + 0.5 if positive else x).requires_grad_()
    values = {n: (0.7 * torch.randn(shape)).requires_grad_() for n, shape in params}

    def run():
        return forward(list(torch.split(x, lengths)), values)

    y = run()
    t = torch.randn(y.shape)
    (F.mse_loss(y, t, reduction="sum") / y.shape[1]).backward()
    zero = lambda p: torch.zeros_like(p) if p.grad is None else p.grad
    return {"name": name, "lengths": lengths, "width": WIDTH, "x": flat(x), "t": flat(t), "y": flat(y), "dx": flat(zero(x)),
            "params": {n: flat(v) for n, v in values.items()}, "grads": {n: flat(zero(v)) for n, v in values.items()},
            "nan_x": poison(x, run), "nan_params": {n: poison(v, run) for n, v in values.items()}}


def each(f):
    """A function of a sample's items whose rows are then added up."""
    return lambda samples, p: torch.stack([f(s, p).sum(0) for s in samples])


def pooled(f):
    return lambda samples, p: torch.stack([f(s) for s in samples])


def ids(count, below):
    return torch.tensor([i * i % below for i in range(count)])


def embedding(samples, p):
    table, out, first = p["e.weight"], [], 0
    for s in samples:
        out.append((s + F.embedding(ids(sum(RAGGED), 5)[first:first + len(s)], table)).sum(0))
        first += len(s)
    return torch.stack(out)


def embedding_sum(samples, p):
    out, first = [], 0
    for s in samples:
        tokens = F.embedding(ids(sum(RAGGED), 5)[first:first + len(s)], p["e.weight"])
        out.append((s * (tokens + p["p.weight"][:len(s)] + p["t.weight"][0])).sum(0))
        first += len(s)
    return torch.stack(out)


def attention(heads):
    def one(s, p):
        q, k, v = (part.reshape(len(s), heads, -1).transpose(0, 1) for part in s.chunk(3, 1))
        with sdpa_kernel(SDPBackend.MATH):  # the fused one loses a NaN of a query
            return F.scaled_dot_product_attention(q, k, v).transpose(0, 1).reshape(len(s), -1)
    return each(one)


def lstm(reverse):
    def one(s, p):
        net = [p["l.w"], p["l.u"], p["l.b"], p["l.c"]]
        x = s.flip(0) if reverse else s
        zeros = torch.zeros(1, 1, WIDTH)
        y, _, _ = torch.lstm(x[:, None], (zeros, zeros), net, True, 1, 0.0, False, False, False)
        return y[:, 0]
    return each(one)


def grid(s, height, width):
    """Pixels as rows to [1, C, H, W]."""
    return s.T.reshape(1, -1, height, width)


def conv(height, width, stride, padding, groups):
    def one(s, p):
        w = p["c.weight"].permute(0, 3, 1, 2)
        y = torch.tanh(F.conv2d(grid(s, height, width), w, p["c.bias"], stride, padding, groups=groups))
        return y[0].reshape(y.shape[1], -1).T
    return each(one)


def window(kind, kernel, stride, padding):
    def one(s, p):
        x = grid(s, 5, 4)
        y = F.max_pool2d(x, kernel, stride, padding) if kind == "max" else F.avg_pool2d(
            x, kernel, stride, padding, count_include_pad=False)
        return y[0].reshape(y.shape[1], -1).T
    return each(one)


def image(samples, p):
    def one(s):
        pixels = 2.0 * s.detach().reshape(WIDTH, 6) + 0.5  # [C, H, W] as they lie
        return (pixels.T * s).sum(0)
    return torch.stack([one(s) for s in samples])


def batch_norm(samples, p):
    x = F.batch_norm(torch.cat(samples), None, None, p["n.weight"], p["n.bias"], training=True, eps=1e-5)
    return torch.stack([s.sum(0) for s in torch.split(x, [len(s) for s in samples])])


def running_norm(samples, p):
    one = lambda s: F.batch_norm(s, torch.full((WIDTH,), 0.25), torch.full((WIDTH,), 2.0), p["n.weight"], p["n.bias"], eps=1e-5)
    return torch.stack([one(s).sum(0) for s in samples])


def columns(s, p):
    return torch.cat([s[:, 1:3], s, s[:, :1]], 1)


W = WIDTH
NORM = [("n.weight", (W,)), ("n.bias", (W,))]
LSTM = [("l.w", (4 * W, W)), ("l.u", (4 * W, W)), ("l.b", (4 * W,)), ("l.c", (4 * W,))]
ACTIVATIONS = {
    "identity": lambda z: z, "relu": torch.relu, "gelu": F.gelu, "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
    "sigmoid": torch.sigmoid, "tanh": torch.tanh, "silu": F.silu}
cases = [case(f"activation_{n}", W, each(lambda s, p, f=f: f(s))) for n, f in ACTIVATIONS.items()]
cases += [
    case("linear", W, each(lambda s, p: torch.relu(F.linear(s, p["l.weight"], p["l.bias"]))), [("l.weight", (5, W)), ("l.bias", (5,))]),
    case("linear_one_output", W, each(lambda s, p: F.linear(s, p["l.weight"])), [("l.weight", (1, W))]),
    case("add", 2 * W, each(lambda s, p: s[:, :W] + s[:, W:])),
    case("subtract", 2 * W, each(lambda s, p: s[:, :W] - s[:, W:])),
    case("multiply", 2 * W, each(lambda s, p: s[:, :W] * s[:, W:])),
    case("divide", 2 * W, each(lambda s, p: s[:, :W] / s[:, W:]), positive=True),
    case("scale", W, each(lambda s, p: 2.5 * s)),
    case("stop_gradient", W, each(lambda s, p: s.detach() * s)),
    case("softmax", W, each(lambda s, p: torch.softmax(s, 1) * s)),
    case("pool_cls", W, pooled(lambda s: s[0])),
    case("pool_last", W, pooled(lambda s: s[-1])),
    case("pool_sum", W, pooled(lambda s: s.sum(0))),
    case("pool_mean", W, pooled(lambda s: s.mean(0))),
    case("pool_max", W, pooled(lambda s: s.amax(0))),
    case("reduce_sum", W, each(lambda s, p: s.sum(1, keepdim=True))),
    case("reduce_mean", W, each(lambda s, p: s.mean(1, keepdim=True))),
    case("columns", W, each(columns)),
    case("reshape", W, pooled(lambda s: s.reshape(-1)), lengths=[4] * 3),
    case("transpose", W, pooled(lambda s: s.T.reshape(-1)), lengths=[4] * 3),
    case("gather", W, lambda samples, p: torch.stack(
        [s[[(2 * n) ** 2 % 3, (2 * n + 1) ** 2 % 3]].reshape(-1) for n, s in enumerate(samples)]), lengths=[3] * 4),
    case("layer_norm", W, each(lambda s, p: F.layer_norm(s, (W,), p["n.weight"], p["n.bias"])), NORM),
    case("layer_norm_of_sum", 2 * W, each(lambda s, p: F.layer_norm(s[:, :W] + s[:, W:], (W,), p["n.weight"], p["n.bias"])), NORM),
    case("batch_norm", W, batch_norm, NORM),
    case("batch_norm_running", W, running_norm, NORM),
    case("embedding", W, embedding, [("e.weight", (5, W))]),
    case("embedding_sum", W, embedding_sum, [("e.weight", (5, W)), ("p.weight", (6, W)), ("t.weight", (2, W))]),
    case("attention", 3 * W, attention(1)),
    case("attention_heads", 6 * W, attention(2)),
    case("lstm_forward", W, lstm(False), LSTM),
    case("lstm_backward", W, lstm(True), LSTM),
    case("image", W, image, lengths=[6] * 3),
    case("conv", W, conv(5, 4, 2, 1, 1), [("c.weight", (4, 3, 3, W)), ("c.bias", (4,))], lengths=[20] * 2),
    case("conv_groups", 2 * W, conv(4, 3, 1, 0, 2), [("c.weight", (4, 2, 2, W)), ("c.bias", (4,))], lengths=[12] * 2),
    case("conv_depthwise", W, conv(4, 3, 1, 1, W), [("c.weight", (W, 3, 3, 1)), ("c.bias", (W,))], lengths=[12] * 2),
    case("window_max", W, window("max", 3, 2, 1), lengths=[20] * 2),
    case("window_average", W, window("average", 3, 2, 1), lengths=[20] * 2),
]


def loss_case(name, config, per_row, outputs, targets):
    """The loss of each row, and which rows' losses are NaN when an output is."""
    y = torch.randn(4, outputs)
    loss = lambda: per_row(y, targets)
    return {"name": name, "config": config, "outputs": outputs, "y": flat(y), "t": [float(v) for v in targets.reshape(-1)],
            "loss": flat(loss()), "nan_y": poison(y, loss)}


mean = lambda f: lambda y, t: f(y, t).mean(1)
classes, cw = torch.tensor([0, 2, 1, 2]), torch.tensor([0.5, 2.0, 0.0])
losses = [
    loss_case("mse", {"type": "mse"}, mean(lambda y, t: (y - t) ** 2), 2, torch.randn(4, 2)),
    loss_case("mae", {"type": "mae"}, mean(lambda y, t: (y - t).abs()), 2, torch.randn(4, 2)),
    loss_case("huber", {"type": "huber", "delta": 0.5}, mean(lambda y, t: F.huber_loss(y, t, reduction="none", delta=0.5)), 2,
              torch.randn(4, 2)),
    loss_case("bce", {"type": "bce_with_logits", "pos_weight": 2.0}, mean(lambda y, t: F.binary_cross_entropy_with_logits(
        y, t, reduction="none", pos_weight=torch.tensor(2.0))), 2, torch.randint(0, 2, (4, 2)).float()),
    loss_case("cross_entropy", {"type": "cross_entropy"}, lambda y, t: F.cross_entropy(y, t, reduction="none"), 3, classes),
    loss_case("cross_entropy_smooth", {"type": "cross_entropy", "label_smoothing": 0.2, "class_weights": flat(cw)},
              lambda y, t: F.cross_entropy(y, t, reduction="none", label_smoothing=0.2, weight=cw), 3, classes),
    loss_case("cross_entropy_weights", {"type": "cross_entropy", "class_weights": flat(cw)},
              lambda y, t: F.cross_entropy(y, t, reduction="none", weight=cw), 3, classes),
]

out = {"torch": torch.__version__, "ops": cases, "losses": losses}
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "ops.json"), "w") as f:
    json.dump(out, f, separators=(",", ":"))
    f.write("\n")
