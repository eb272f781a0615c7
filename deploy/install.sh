#!/bin/sh
# Installs Headgate into the Python of a rayproject/ray-llm image; run it from the root of the checkout.
#
# The image's own torch, vLLM and Ray were built for each other and for its CUDA. They are written down as constraints first, so that
# pip fails where this project wants other versions, instead of replacing gigabytes with a build that does not fit the driver.
set -eu

held='^(torch|vllm|ray|transformers|numpy|pyarrow)=='
constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT

python -m pip list --format=freeze --disable-pip-version-check | { grep -E "$held" || true; } > "$constraints"
for package in torch vllm ray; do
    grep -q "^$package==" "$constraints" || { echo "install: no $package in this image; use rayproject/ray-llm" >&2; exit 1; }
done
python -m pip install --no-cache-dir --disable-pip-version-check --constraint "$constraints" ".[gpu]"
headgate --help > /dev/null
