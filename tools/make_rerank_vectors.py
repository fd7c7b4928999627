#!/usr/bin/env python3
"""Writes tests/e2e/rerank_vectors.json: a tiny cross-encoder (BERT with one label) over a small vocabulary, a query, documents and the scores that transformers gives them. Weights are
not stored (tests/e2e/tiny_models.py). Needs PyPI's torch and transformers."""
import json
import os
import sys
import tempfile

import numpy as np
import torch
import transformers as tf

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(ROOT, "tests/e2e"))
from tiny_models import write_cross_encoder

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + list("abcdefghijklmnopqrstuvwxyz.,?") + ["##" + c for c in "abcdefghijklmnopqrstuvwxyz"] + \
    "the a of in is what how many people live berlin city river bread bake ##ing ##s capital germany million about old museum well known for its does it".split()
QUERY = "How many people live in Berlin?"
DOCUMENTS = ["Berlin is a city of about a million people.", "Bread is baked in the old city.", "The museums of Berlin.", "what", "The river is well known for its museum, the capital for its bread.", "Germany", "It does."]


def rule(name, shape):
    if "LayerNorm.weight" in name:
        return 1.0, 0.5
    if len(shape) == 1:
        return 0.0, 0.3
    if "embeddings" in name:
        return 0.0, 1.0
    return 0.0, (8.0 if "classifier" in name else 2.0) / shape[-1] ** 0.5


def main():
    config = tf.BertConfig(vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, max_position_embeddings=64, num_labels=1, architectures=["BertForSequenceClassification"])
    empty = tf.BertForSequenceClassification(config)
    tensors = [[k, *map(float, rule(k, tuple(v.shape))), list(v.shape)] for k, v in sorted(empty.state_dict().items()) if "position_ids" not in k]
    text = json.loads(config.to_json_string(use_diff=False))
    keep = ("architectures", "model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings", "layer_norm_eps", "hidden_act", "type_vocab_size", "id2label", "label2id", "pad_token_id")
    text = {k: text[k] for k in keep if k in text}
    with tempfile.TemporaryDirectory() as d:
        write_cross_encoder(d, text, tensors, WORDS)
        model = tf.BertForSequenceClassification.from_pretrained(d, dtype=torch.float32, attn_implementation="eager").eval()
        tokenizer = tf.PreTrainedTokenizerFast.from_pretrained(d)
        scores, counts = [], []
        for document in DOCUMENTS:
            ids = tokenizer(QUERY, document, return_tensors="pt", return_token_type_ids=True)
            counts.append(ids["input_ids"].shape[1])
            with torch.no_grad():
                scores.append(float(torch.sigmoid(model(input_ids=ids["input_ids"], token_type_ids=ids["token_type_ids"]).logits[0, 0])))
    json.dump({"config": text, "tensors": tensors, "words": WORDS, "query": QUERY, "documents": DOCUMENTS, "scores": scores, "tokens": counts}, open(os.path.join(ROOT, "tests/e2e/rerank_vectors.json"), "w"), indent=None)
    print(np.round(scores, 4), counts)


main()
