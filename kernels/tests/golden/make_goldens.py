"""Writes goldens.json beside this script: values and gradients as PyTorch 2.15 (CPU, f32) computes them.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 numpy
    venv/bin/python make_goldens.py

Numbers are f32 printed with all digits, so reading them back is exact.
"""
import json
import os

import torch
import torch.nn.functional as F

torch.manual_seed(20261123)
torch.set_num_threads(1)

ACTIVATIONS = {
    "identity": lambda z: z,
    "relu": torch.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
}


def flat(t):
    return [float(v) for v in t.detach().reshape(-1)]


def linear_cases():
    for name, act in ACTIVATIONS.items():
        x = (2 * torch.randn(5, 7)).requires_grad_()
        w, b = torch.randn(6, 7).requires_grad_(), torch.randn(6).requires_grad_()
        t = torch.randn(5, 6)
        y = act(F.linear(x, w, b))
        (F.mse_loss(y, t, reduction="sum") / 6).backward()
        yield {"activation": name, "x": flat(x), "w": flat(w), "b": flat(b), "t": flat(t), "y": flat(y),
               "dx": flat(x.grad), "dw": flat(w.grad), "db": flat(b.grad)}


def layer_norm_case():
    x, g, b = (3 * torch.randn(4, 9) + 1).requires_grad_(), torch.randn(9).requires_grad_(), torch.randn(9).requires_grad_()
    t = torch.randn(4, 9)
    y = F.layer_norm(x, (9,), g, b, eps=1e-5)
    (F.mse_loss(y, t, reduction="sum") / 9).backward()
    return {"x": flat(x), "gain": flat(g), "bias": flat(b), "t": flat(t), "y": flat(y),
            "dx": flat(x.grad), "dgain": flat(g.grad), "dbias": flat(b.grad)}


def loss_cases():
    rows, weights = 6, torch.rand(6) + 0.25

    def real(config, per_element, columns, targets):
        y = (2 * torch.randn(rows, columns)).requires_grad_()
        per_row = per_element(y, targets).mean(dim=1)
        loss = (per_row * weights).sum() / weights.sum()
        (per_row * weights).sum().backward()
        return {"config": config, "columns": columns, "y": flat(y), "t": flat(targets), "weights": flat(weights),
                "loss": float(loss), "dy": flat(y.grad)}

    yield real({"type": "mse"}, lambda y, t: (y - t) ** 2, 3, torch.randn(rows, 3))
    yield real({"type": "mae"}, lambda y, t: (y - t).abs(), 3, torch.randn(rows, 3))
    yield real({"type": "huber", "delta": 0.7}, lambda y, t: F.huber_loss(y, t, reduction="none", delta=0.7), 3, torch.randn(rows, 3))
    binary = (torch.rand(rows, 2) > 0.5).float()
    yield real({"type": "bce_with_logits"}, lambda y, t: F.binary_cross_entropy_with_logits(y, t, reduction="none"), 2, binary)
    yield real({"type": "bce_with_logits", "pos_weight": 2.5},
               lambda y, t: F.binary_cross_entropy_with_logits(y, t, reduction="none", pos_weight=torch.tensor(2.5)), 2, binary)
    for smoothing, weighted in [(0.0, False), (0.1, False), (0.0, True), (0.2, True)]:
        classes = torch.randint(0, 5, (rows,))
        cw = torch.rand(5) + 0.5 if weighted else None
        y = (2 * torch.randn(rows, 5)).requires_grad_()
        loss = F.cross_entropy(y, classes, weight=cw, label_smoothing=smoothing)
        F.cross_entropy(y, classes, weight=cw, label_smoothing=smoothing, reduction="sum").backward()
        config = {"type": "cross_entropy", "label_smoothing": smoothing}
        if weighted:
            config["class_weights"] = flat(cw)
        yield {"config": config, "columns": 5, "y": flat(y), "classes": classes.tolist(), "loss": float(loss), "dy": flat(y.grad)}


class Mlp(torch.nn.Module):
    """The names and order of our parameters."""

    def __init__(self, norm):
        super().__init__()
        sizes = [4, 9, 6, 2]
        self.linears = torch.nn.ModuleList(torch.nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(n) for n in sizes[1:-1]) if norm else None

    def forward(self, x):
        for i, layer in enumerate(self.linears[:-1]):
            x = layer(x)
            x = F.gelu(self.norms[i](x) if self.norms else x)
        return self.linears[-1](x)

    def named(self):
        for i, layer in enumerate(self.linears):
            yield f"layers.{i}.weight", layer.weight
            yield f"layers.{i}.bias", layer.bias
            if self.norms and i < len(self.norms):
                yield f"layers.{i}.norm.weight", self.norms[i].weight
                yield f"layers.{i}.norm.bias", self.norms[i].bias


def training_cases():
    makers = {
        "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01),
        "adam": lambda groups: torch.optim.Adam(groups, lr=0.01),
        "sgd": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9),
        "sgd_nesterov": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True),
    }
    for name, make in makers.items():
        for norm, clip in [(False, None), (True, 0.3)]:
            model = Mlp(norm)
            params = dict(model.named())
            before = {k: flat(v) for k, v in params.items()}
            decayed = [v for k, v in params.items() if v.dim() == 2]
            exempt = [v for k, v in params.items() if v.dim() == 1]
            opt = make([{"params": decayed, "weight_decay": 0.1}, {"params": exempt, "weight_decay": 0.0}])
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=4, eta_min=0.001)
            steps = []
            for _ in range(6):
                x, t = torch.randn(10, 4), torch.randn(10, 2)
                opt.zero_grad()
                loss = F.mse_loss(model(x), t)
                loss.backward()
                total = torch.nn.utils.clip_grad_norm_(model.parameters(), clip if clip else 1e9)
                rate = opt.param_groups[0]["lr"]
                opt.step()
                schedule.step()
                steps.append({"x": flat(x), "t": flat(t), "loss": float(loss), "grad_norm": float(total), "learning_rate": rate})
            yield {"optimizer": name, "norm": norm, "clip": clip, "before": before, "after": {k: flat(v) for k, v in params.items()},
                   "steps": steps}


def one_cycle():
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=0.1, total_steps=10, cycle_momentum=False)
    rates = []
    for step in range(10):
        rates.append(opt.param_groups[0]["lr"])
        opt.step()
        if step < 9:
            schedule.step()
    return rates


out = {"torch": torch.__version__, "linear": list(linear_cases()), "layer_norm": layer_norm_case(), "loss": list(loss_cases()),
       "training": list(training_cases()), "one_cycle": one_cycle()}
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "goldens.json"), "w") as f:
    json.dump(out, f, separators=(",", ":"))
    f.write("\n")
