"""Writes training.json beside this script: what PyTorch 2.15 (CPU, f32) makes of optimizer steps, learning-rate
schedules, gradient scaling, averages of weights and 16-bit conversions.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 numpy
    venv/bin/python make_training_goldens.py

LAMB is not part of PyTorch: it is written out here from algorithm 2 of You et al. (2020).
Numbers read back as the f32 they are.
"""
import json
import math
import os

import torch
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

torch.manual_seed(20261123)
torch.set_num_threads(1)

SHAPES = {"a.weight": (17, 3), "a.bias": (17,), "b.weight": (2, 7)}
STEPS = 5


def flat(t):
    """The shortest decimals that read back as the same f32."""
    return [float(str(v)) for v in t.detach().reshape(-1).numpy()]


class Lamb(torch.optim.Optimizer):
    """Tensors without weight decay take no trust ratio, as in the authors' implementation."""

    def __init__(self, params, lr, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01):
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                s = self.state.setdefault(p, {"t": 0, "m": torch.zeros_like(p), "v": torch.zeros_like(p)})
                s["t"] += 1
                s["m"].mul_(b1).add_(p.grad, alpha=1 - b1)
                s["v"].mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
                m, v = s["m"] / (1 - b1 ** s["t"]), s["v"] / (1 - b2 ** s["t"])
                r = m / (v.sqrt() + group["eps"]) + group["weight_decay"] * p
                wn, rn = float(p.double().norm()), float(r.double().norm())
                trust = wn / rn if group["weight_decay"] > 0 and wn > 0 and rn > 0 else 1.0
                p.add_(r, alpha=-group["lr"] * trust)


OPTIMIZERS = {
    '{"type":"adamw","learning_rate":0.01,"weight_decay":0.1}':
        lambda g: torch.optim.AdamW(g, lr=0.01),
    '{"type":"adamw","learning_rate":0.02,"beta1":0.8,"beta2":0.95,"epsilon":1e-6,"weight_decay":0.1}':
        lambda g: torch.optim.AdamW(g, lr=0.02, betas=(0.8, 0.95), eps=1e-6),
    '{"type":"adam","learning_rate":0.01,"weight_decay":0.1}':
        lambda g: torch.optim.Adam(g, lr=0.01),
    '{"type":"sgd","learning_rate":0.05,"momentum":0.0,"weight_decay":0.1}':
        lambda g: torch.optim.SGD(g, lr=0.05),
    '{"type":"sgd","learning_rate":0.05,"momentum":0.9,"weight_decay":0.1}':
        lambda g: torch.optim.SGD(g, lr=0.05, momentum=0.9),
    '{"type":"sgd","learning_rate":0.05,"momentum":0.8,"nesterov":true,"weight_decay":0.1}':
        lambda g: torch.optim.SGD(g, lr=0.05, momentum=0.8, nesterov=True),
    '{"type":"lamb","learning_rate":0.02,"weight_decay":0.1}':
        lambda g: Lamb(g, lr=0.02),
}


def fresh():
    return {name: torch.randn(shape).requires_grad_() for name, shape in SHAPES.items()}


def optimizer_cases():
    for config, make in OPTIMIZERS.items():
        for grouped, clip_value in [(False, None), (True, 0.5)]:
            params = fresh()
            before = {k: flat(v) for k, v in params.items()}
            # Grouped: b.* at a tenth of the rate and with a decay of 0.02.
            groups = [{"params": [params["a.weight"]], "weight_decay": 0.1}, {"params": [params["a.bias"]], "weight_decay": 0.0},
                      {"params": [params["b.weight"]], "weight_decay": 0.02 if grouped else 0.1}]
            opt = make(groups)
            if grouped:
                opt.param_groups[2]["lr"] *= 0.1
            grads = []
            for _ in range(STEPS):
                step = {}
                for name, p in params.items():
                    p.grad = torch.randn_like(p)
                    step[name] = flat(p.grad)
                if clip_value:
                    torch.nn.utils.clip_grad_value_(params.values(), clip_value)
                opt.step()
                grads.append(step)
            yield {"optimizer": json.loads(config), "grouped": grouped, "clip_value": clip_value, "before": before,
                   "gradients": grads, "after": {k: flat(v) for k, v in params.items()}}


def rates(make, count, base=0.1, metrics=None):
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    schedule = make(opt)
    out = []
    for i in range(count):
        out.append(opt.param_groups[0]["lr"])
        opt.step()
        if metrics is not None:
            schedule.step(metrics[i])
        elif i + 1 < count:
            schedule.step()
    return out


def warmup_cosine(warmup, total, share):
    def factor(step):
        if step < warmup:
            return step / warmup
        progress = min((step - warmup) / (total - warmup), 1.0)
        return share + (1 - share) * (1 + math.cos(math.pi * progress)) / 2
    return factor


def schedule_cases():
    def case(config, by, make, count, metrics=None):
        return {"config": config, "by": by, "base": 0.1, "rates": rates(make, count, metrics=metrics), "metrics": metrics}

    for t_max, eta_min in [(5, 0.0), (7, 0.003), (1, 0.01)]:
        yield case({"type": "cosine_annealing", "T_max": t_max, "eta_min": eta_min}, "epoch",
                   lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=t_max, eta_min=eta_min), 3 * t_max + 4)
    for size, gamma in [(3, 0.5), (1, 0.9)]:
        yield case({"type": "step", "step_size": size, "gamma": gamma}, "epoch",
                   lambda o: lr_scheduler.StepLR(o, step_size=size, gamma=gamma), 11)
    for steps, start in [(6, 0.1), (3, 1.0 / 3)]:
        yield case({"type": "linear_warmup", "warmup_steps": steps, "start_factor": start}, "step",
                   lambda o: lr_scheduler.LinearLR(o, start_factor=start, end_factor=1.0, total_iters=steps), 10)
    for total, options in [(10, {}), (33, {"pct_start": 0.45, "div_factor": 10.0, "final_div_factor": 50.0}), (20, {"max_lr": 0.7})]:
        torch_options = {"max_lr": 0.1, **options}
        yield case({"type": "one_cycle", "total_steps": total, **options}, "step",
                   lambda o: lr_scheduler.OneCycleLR(o, total_steps=total, cycle_momentum=False, **torch_options), total)
    for warmup, total, eta_min in [(4, 16, 0.0), (0, 9, 0.01)]:
        yield case({"type": "warmup_cosine", "warmup_steps": warmup, "total_steps": total, "eta_min": eta_min}, "step",
                   lambda o: lr_scheduler.LambdaLR(o, warmup_cosine(warmup, total, eta_min / 0.1)), total + 4)
    falling = [1.0, 0.8, 0.81, 0.8, 0.79999, 0.8, 0.7, 0.9, 0.9, 0.9, 0.9, 0.6, 0.7, 0.7, 0.7, 0.7, 0.7, float("nan"), 0.7, 0.7]
    for options in [{"factor": 0.5, "patience": 2}, {"factor": 0.1, "patience": 0, "cooldown": 2, "min_lr": 0.002},
                    {"factor": 0.3, "patience": 1, "threshold": 0.05}]:
        yield case({"type": "reduce_on_plateau", **options}, "metric",
                   lambda o: lr_scheduler.ReduceLROnPlateau(o, **options), len(falling), falling)
        rising = [-v for v in falling]
        yield case({"type": "reduce_on_plateau", "mode": "max", **options}, "metric",
                   lambda o: lr_scheduler.ReduceLROnPlateau(o, mode="max", **options), len(rising), rising)


def grad_scaler_case():
    """Gradients that an f16 backward pass would give, some beyond its range, through GradScaler and SGD with a schedule."""
    p = torch.randn(12).requires_grad_()
    before = flat(p)
    opt = torch.optim.SGD([p], lr=0.1, momentum=0.9)
    schedule = lr_scheduler.LinearLR(opt, start_factor=0.25, end_factor=1.0, total_iters=8)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0 ** 14, growth_factor=2.0, backoff_factor=0.5, growth_interval=3)
    steps = []
    for i in range(24):
        gradient = torch.randn(12) * (30.0 if i in (2, 3, 11) else 0.01) * (1e-6 if i == 7 else 1.0)
        scaler.scale(torch.zeros(()))
        scale, rate = scaler.get_scale(), opt.param_groups[0]["lr"]
        p.grad = (gradient * scale).to(torch.float16).to(torch.float32)
        scaler.unscale_(opt)
        skipped = not bool(torch.isfinite(p.grad).all())
        scaler.step(opt)
        scaler.update()
        if not skipped:
            schedule.step()
        steps.append({"gradient": flat(gradient), "scale": scale, "learning_rate": rate, "skipped": skipped, "after": flat(p)})
    return {"before": before, "steps": steps}


def ema_case():
    p = torch.nn.Linear(3, 2)
    average = AveragedModel(p, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average.update_parameters(p)
    weights = [flat(p.weight)]
    averages = [flat(average.module.weight)]
    for _ in range(6):
        with torch.no_grad():
            p.weight.add_(torch.randn(2, 3))
        average.update_parameters(p)
        weights.append(flat(p.weight))
        averages.append(flat(average.module.weight))
    return {"decay": 0.9, "weights": weights, "averages": averages}


def conversions():
    words = torch.randint(-2 ** 31, 2 ** 31 - 1, (200,), dtype=torch.int64).to(torch.int32)
    edges = torch.tensor([0.0, -0.0, 65504.0, 65519.99, 65520.0, -65520.0, 1e30, 2.0 ** -14, 2.0 ** -24, 2.0 ** -25, 1.5 * 2.0 ** -25,
                          5.9e-8, 6.1e-5, 1.0009765, 1.0004883, 1.0014648, 3.3895314e38, 3.4e38, float("inf"), float("-inf")])
    scaled = torch.randn(100) * torch.tensor(10.0) ** torch.randint(-9, 6, (100,))
    x = torch.cat([words.view(torch.float32), edges, scaled])
    x = x[~x.isnan()]
    bits = lambda t: [int(v) & 0xFFFF for v in t.view(torch.int16)]
    return {"x": [int(v) & 0xFFFFFFFF for v in x.view(torch.int32)], "f16": bits(x.half()), "bf16": bits(x.bfloat16())}


out = {"torch": torch.__version__, "optimizers": list(optimizer_cases()), "schedules": list(schedule_cases()),
       "grad_scaler": grad_scaler_case(), "ema": ema_case(), "conversions": conversions()}
text = json.dumps(out, separators=(",", ":")).replace("NaN", "null")
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "training.json"), "w") as f:
    f.write(text + "\n")
