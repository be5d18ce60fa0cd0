#!/usr/bin/env python3
"""Writes a real sharded safetensors model from a seed: the encoder of a small speech model with random weights.

    python3 tests/live/make_model.py OUT [--shards 8] [--mib 1] [--seed 7]

Each shard is a safetensors file (8 bytes of header length, a JSON header, f32 tensors); model.safetensors.index.json
maps tensors to shards and holds each shard's SHA-256 and the model's name. The same arguments make the same bytes.
Standard library only.
"""

import argparse
import array
import hashlib
import json
import random
import struct
import sys
from pathlib import Path

WIDTH = 384  # whisper-tiny's


def tensors(layer, budget):
    """Names and shapes of a layer's tensors within `budget` bytes; the rest of it as rows of the MLP."""
    shapes = []
    left = budget // 4
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"):
        rows = min(WIDTH, left // WIDTH // 2)
        if rows == 0:
            break
        shapes.append((f"model.encoder.layers.{layer}.{name}.weight", [rows, WIDTH]))
        left -= rows * WIDTH
    if left // WIDTH:
        shapes.append((f"model.encoder.layers.{layer}.fc1.weight", [left // WIDTH, WIDTH]))
    return shapes


def shard(layer, budget, seed):
    rng = random.Random(f"{seed}/{layer}")
    header, data, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name, shape in tensors(layer, budget):
        count = shape[0] * shape[1]
        # Uniform with the spread of a usual initialisation; gauss() would take five times as long.
        bound = (3.0 / WIDTH) ** 0.5
        values = array.array("f", (rng.uniform(-bound, bound) for _ in range(count)))
        if sys.byteorder == "big":
            values.byteswap()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 4 * count]}
        at += 4 * count
        data.append(values.tobytes())
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors start aligned
    return struct.pack("<Q", len(text)) + text + b"".join(data), [n for n in header if n != "__metadata__"]


def make(out, shards=8, mib=1.0, seed=7):
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    weights, hashes, total = {}, {}, 0
    for layer in range(shards):
        name = f"model-{layer + 1:05d}-of-{shards:05d}.safetensors"
        body, names = shard(layer, int(mib * 1024 * 1024), seed)
        (out / name).write_bytes(body)
        hashes[name] = hashlib.sha256(body).hexdigest()
        weights.update({tensor: name for tensor in names})
        total += len(body)
    metadata = {"name": f"tidegate-speech-{shards}x{mib:g}MiB-seed{seed}", "family": "whisper-like encoder",
                "total_size": total, "sha256": hashes}
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": metadata, "weight_map": weights}, indent=1))
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--mib", type=float, default=1.0, help="of each shard")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    total = make(args.out, args.shards, args.mib, args.seed)
    print(f"{args.shards} shards, {total} bytes in {args.out}")


if __name__ == "__main__":
    main()
