"""Writes models.json beside this script: outputs and gradients of whole models as PyTorch 2.15 (CPU, f32) computes
them, dropout 0. A case has our configuration, our parameter names, inputs, targets, outputs and gradients of
sum over rows of the mean square over outputs.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 numpy
    venv/bin/python make_model_goldens.py
"""
import json
import os

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(20261124)
torch.set_num_threads(1)


def flat(t):
    return [float(f"{float(v):.9g}") for v in t.detach().reshape(-1)]  # nine digits are enough for f32


def case(config, named, inputs, forward, rows, outputs=1, features=()):
    """named: our name -> (tensor, function from their layout to ours)."""
    targets = torch.randn(rows, outputs)
    y = forward()
    (F.mse_loss(y, targets, reduction="sum") / outputs).backward()
    same = lambda t: t
    params = {k: v if isinstance(v, tuple) else (v, same) for k, v in named.items()}
    return {"config": config, "rows": rows, "features": list(features), "inputs": inputs, "targets": flat(targets),
            "outputs": flat(y), "params": {k: flat(f(t)) for k, (t, f) in params.items()},
            "grads": {k: flat(f(t.grad)) for k, (t, f) in params.items()}}


def text(norm_first, activation):
    lengths, vocab, longest, width = [5, 1, 9, 3, 7], 20, 9, 12
    embed, position = nn.Embedding(vocab, width), nn.Parameter(0.5 * torch.randn(longest, width))
    layer = nn.TransformerEncoderLayer(width, 3, 20, dropout=0.0, activation=activation, batch_first=True, norm_first=norm_first)
    encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(width) if norm_first else None, enable_nested_tensor=False)
    for p in encoder.parameters():
        nn.init.normal_(p, std=0.4)
    head = nn.Linear(width, 2)
    ids = torch.randint(1, vocab, (len(lengths), longest))
    pad = torch.arange(longest)[None, :] >= torch.tensor(lengths)[:, None]

    def forward():
        h = encoder(embed(ids) + position, src_key_padding_mask=pad)
        keep = (~pad).unsqueeze(2).float()
        return head((h * keep).sum(1) / keep.sum(1))

    named = {"text.embeddings.token.weight": embed.weight, "text.embeddings.position.weight": position}
    for n, l in enumerate(encoder.layers):
        at = f"text.layers.{n}."
        named |= {
            at + "attention.qkv.weight": l.self_attn.in_proj_weight, at + "attention.qkv.bias": l.self_attn.in_proj_bias,
            at + "attention.output.weight": l.self_attn.out_proj.weight, at + "attention.output.bias": l.self_attn.out_proj.bias,
            at + "attention.norm.weight": l.norm1.weight, at + "attention.norm.bias": l.norm1.bias,
            at + "feed_forward.up.weight": l.linear1.weight, at + "feed_forward.up.bias": l.linear1.bias,
            at + "feed_forward.down.weight": l.linear2.weight, at + "feed_forward.down.bias": l.linear2.bias,
            at + "feed_forward.norm.weight": l.norm2.weight, at + "feed_forward.norm.bias": l.norm2.bias,
        }
    if norm_first:
        named |= {"text.norm.weight": encoder.norm.weight, "text.norm.bias": encoder.norm.bias}
    named |= {"head.layers.0.weight": head.weight, "head.layers.0.bias": head.bias}
    config = {"type": "transformer_classifier", "output_dim": 2, "text_encoder": {
        "vocab_size": vocab, "max_length": longest, "hidden_size": width, "layers": 2, "heads": 3, "intermediate_size": 20,
        "activation": activation, "dropout": 0.0, "norm": "pre" if norm_first else "post"}}
    tokens = {"ids": [int(i) for row, n in zip(ids, lengths) for i in row[:n]], "lengths": lengths}
    return case(config, named, {"tokens": tokens}, forward, len(lengths), 2)


def lstm(bidirectional):
    lengths, columns, hidden = [4, 1, 6, 3], 3, 5
    net, head = nn.LSTM(columns, hidden, 2, batch_first=True, bidirectional=bidirectional), nn.Linear(hidden * (1 + bidirectional), 1)
    x = torch.randn(len(lengths), max(lengths), columns)

    def forward():
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        _, (h, _) = net(packed)
        return head(torch.cat([h[-2], h[-1]], 1) if bidirectional else h[-1])

    named = {"lstm." + k: v for k, v in net.named_parameters()}
    named |= {"head.layers.0.weight": head.weight, "head.layers.0.bias": head.bias}
    config = {"type": "lstm_sequence", "input_dim": columns, "hidden_size": hidden, "num_layers": 2, "bidirectional": bidirectional}
    steps = {"values": [v for row, n in zip(x, lengths) for v in flat(row[:n])], "lengths": lengths}
    return case(config, named, {"steps": steps}, forward, len(lengths))


def image(norm, kernel, stride, padding):
    rows, channels, height, width, filters = 6, 2, 9, 7, [5, 4]
    convs = [nn.Conv2d(a, b, kernel, stride, padding) for a, b in zip([channels] + filters, filters)]
    norms = [nn.BatchNorm2d(n) for n in filters]
    head = nn.Linear(filters[-1], 1)
    x = torch.randn(rows, channels, height, width)

    def forward():
        h = x
        for conv, bn in zip(convs, norms):
            h = torch.relu(bn(conv(h)) if norm else conv(h))
        return head(h.mean((2, 3)))

    last = lambda w: w.permute(0, 2, 3, 1)
    named = {}
    for n, (conv, bn) in enumerate(zip(convs, norms)):
        named |= {f"visual.layers.{n}.weight": (conv.weight, last), f"visual.layers.{n}.bias": conv.bias}
        if norm:
            named |= {f"visual.layers.{n}.norm.weight": bn.weight, f"visual.layers.{n}.norm.bias": bn.bias}
    named |= {"head.layers.0.weight": head.weight, "head.layers.0.bias": head.bias}
    config = {"type": "image_classifier", "visual_encoder": {
        "channels": channels, "height": height, "width": width, "filters": filters, "kernel": kernel, "stride": stride,
        "padding": padding, "norm": "batch_norm" if norm else "none"}}
    made = case(config, named, {"images": {"shape": [channels, height, width], "values": flat(x)}}, forward, rows)
    if norm:  # after one forward pass with momentum 0.1
        made["statistics"] = {f"visual.layers.{n}.norm.{ours}": flat(t) for n, bn in enumerate(norms)
                              for ours, t in [("running_mean", bn.running_mean), ("running_variance", bn.running_var)]}
    return made


def table():
    rows, numbers, sizes = 7, 3, [4, 6]
    tables = [nn.Embedding(n, 2) for n in sizes]
    hidden, head = nn.Linear(numbers + 4, 5), nn.Linear(5, 1)
    x, ids = torch.randn(rows, numbers), torch.stack([torch.randint(0, n, (rows,)) for n in sizes], 1)
    forward = lambda: head(torch.relu(hidden(torch.cat([x] + [t(ids[:, i]) for i, t in enumerate(tables)], 1))))
    named = {f"table.categories.{i}.weight": t.weight for i, t in enumerate(tables)}
    named |= {"table.layers.0.weight": hidden.weight, "table.layers.0.bias": hidden.bias,
              "head.layers.0.weight": head.weight, "head.layers.0.bias": head.bias}
    config = {"type": "tabular", "table": {"input_dim": numbers, "categories": sizes, "embedding_dim": 2, "hidden_layers": [5]}}
    return case(config, named, {"categories": ids.reshape(-1).tolist()}, forward, rows, features=flat(x))


def ad_score():
    """All three branches; also the gradients of the output with respect to what the model reads."""
    lengths, vocab, longest, width = [4, 1, 6, 2, 5], 15, 6, 8
    rows, numbers, channels, side, filters = len(lengths), 3, 2, 7, [4, 5]
    embed, position = nn.Embedding(vocab, width), nn.Parameter(0.5 * torch.randn(longest, width))
    layer = nn.TransformerEncoderLayer(width, 2, 12, dropout=0.0, activation="gelu", batch_first=True)
    convs = [nn.Conv2d(a, b, 3, 2, 1) for a, b in zip([channels] + filters, filters)]
    platforms, hidden = nn.Embedding(4, 2), nn.Linear(numbers + 2, 6)
    fusion, heads = nn.Linear(width + filters[-1] + 6, 10), [nn.Linear(10, 7), nn.Linear(7, 1)]
    for p in [*layer.parameters(), *fusion.parameters()]:
        nn.init.normal_(p, std=0.4)
    ids, platform = torch.randint(1, vocab, (rows, longest)), torch.randint(0, 4, (rows,))
    pad = torch.arange(longest)[None, :] >= torch.tensor(lengths)[:, None]
    x, pixels = torch.randn(rows, numbers), torch.randn(rows, channels, side, side)

    def answer(x, pixels, embedded):
        h = layer(embedded, src_key_padding_mask=pad)
        keep = (~pad).unsqueeze(2).float()
        image = pixels
        for conv in convs:
            image = torch.relu(conv(image))
        table = torch.relu(hidden(torch.cat([x, platforms(platform)], 1)))
        z = torch.cat([(h * keep).sum(1) / keep.sum(1), image.mean((2, 3)), table], 1)
        return torch.sigmoid(heads[1](torch.relu(heads[0](torch.relu(fusion(z))))))

    at = "text.layers.0."
    dense = {at + "attention.output": layer.self_attn.out_proj, at + "attention.norm": layer.norm1,
             at + "feed_forward.up": layer.linear1, at + "feed_forward.down": layer.linear2,
             at + "feed_forward.norm": layer.norm2, "table.layers.0": hidden, "fusion": fusion,
             "head.layers.0": heads[0], "head.layers.1": heads[1]}
    named = {"text.embeddings.token.weight": embed.weight, "text.embeddings.position.weight": position,
             at + "attention.qkv.weight": layer.self_attn.in_proj_weight, at + "attention.qkv.bias": layer.self_attn.in_proj_bias,
             "table.categories.0.weight": platforms.weight}
    for name, l in dense.items():
        named |= {name + ".weight": l.weight, name + ".bias": l.bias}
    last = lambda w: w.permute(0, 2, 3, 1)
    for n, conv in enumerate(convs):
        named |= {f"visual.layers.{n}.weight": (conv.weight, last), f"visual.layers.{n}.bias": conv.bias}
    config = {"type": "ad_score", "output_activation": "sigmoid", "fusion": {"hidden_dim": 10},
              "head": {"hidden_layers": [7]},
              "text_encoder": {"vocab_size": vocab, "max_length": longest, "hidden_size": width, "layers": 1, "heads": 2,
                               "intermediate_size": 12, "activation": "gelu", "dropout": 0.0, "norm": "post"},
              "visual_encoder": {"channels": channels, "height": side, "width": side, "filters": filters},
              "table": {"input_dim": numbers, "categories": [4], "embedding_dim": 2, "hidden_layers": [6]}}
    inputs = {"tokens": {"ids": [int(i) for row, n in zip(ids, lengths) for i in row[:n]], "lengths": lengths},
              "images": {"shape": [channels, side, side], "values": flat(pixels)}, "categories": platform.tolist()}
    made = case(config, named, inputs, lambda: answer(x, pixels, embed(ids) + position), rows, features=flat(x))
    read = [x.clone().requires_grad_(), pixels.clone().requires_grad_(), (embed(ids) + position).detach().requires_grad_()]
    of_x, of_pixels, of_tokens = torch.autograd.grad(answer(*read).sum(), read)
    made["input_grads"] = {"features": flat(of_x), "pixels": flat(of_pixels), "tokens": flat(of_tokens[~pad])}
    return made


out = {"torch": torch.__version__, "models": [
    text(False, "relu"), text(False, "gelu"), text(True, "gelu"), lstm(False), lstm(True),
    image(False, 3, 2, 1), image(False, 2, 1, 0), image(True, 3, 2, 1), table(), ad_score()]}
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "models.json"), "w") as f:
    json.dump(out, f, separators=(",", ":"))
    f.write("\n")
