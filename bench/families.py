"""Synthetic families: a base and fine-tunes of it, Llama-shaped, random but reproducible.

Base weights are N(0, 0.02), norms about 1. A fine-tune adds 2e-4·n·|n| with n normal: heavy-tailed, and in
bfloat16 about two fifths of the deltas round to nothing, so that many magnitudes are equal, as in real
fine-tunes. Values are keyed by (seed, tensor name, model, chunk): any subset can be made alone.

    python -m bench.families 1.1B          makes it under bench-data and prints where
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bench.arrays import NUMPY_OF, Array, encode, header

CHUNK = 1 << 22  # elements made at a time, 16 MiB of float32
FORMAT = 1  # part of the stamp: change it when the values made for the same arguments change


@dataclass(frozen=True)
class Shape:
    """A Llama's dimensions."""

    hidden: int
    layers: int
    mlp: int
    heads: int
    kv_heads: int
    vocab: int
    tied: bool = False


SHAPES = {
    "tiny": Shape(hidden=32, layers=4, mlp=64, heads=4, kv_heads=2, vocab=64),
    "10M": Shape(hidden=256, layers=8, mlp=768, heads=8, kv_heads=4, vocab=8000),
    "0.1B": Shape(hidden=768, layers=12, mlp=2048, heads=12, kv_heads=4, vocab=32000),
    "0.3B": Shape(hidden=1024, layers=22, mlp=2816, heads=16, kv_heads=4, vocab=32000),
    "1.1B": Shape(hidden=2048, layers=22, mlp=5632, heads=32, kv_heads=4, vocab=32000),
    "4B": Shape(hidden=3072, layers=38, mlp=8192, heads=24, kv_heads=8, vocab=32000),  # 8 GB a model
}


@dataclass(frozen=True)
class Family:
    """Where the models of a family lie."""

    base: Path
    tunes: tuple[Path, ...]

    @property
    def models(self) -> tuple[Path, ...]:
        return (self.base, *self.tunes)


def data_directory() -> Path:
    """Where benchmark files are kept: $MERGEFLEET_BENCH_DIR, or bench-data in the repository."""
    default = Path(__file__).resolve().parent.parent / "bench-data"
    return Path(os.environ.get("MERGEFLEET_BENCH_DIR", default))


def tensor_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Every tensor of a Llama of this shape, by its name on the Hub, in file order."""
    h, kv = shape.hidden, shape.hidden // shape.heads * shape.kv_heads
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocab, h)}
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        tensors[prefix + "input_layernorm.weight"] = (h,)
        tensors[prefix + "self_attn.q_proj.weight"] = (h, h)
        tensors[prefix + "self_attn.k_proj.weight"] = (kv, h)
        tensors[prefix + "self_attn.v_proj.weight"] = (kv, h)
        tensors[prefix + "self_attn.o_proj.weight"] = (h, h)
        tensors[prefix + "post_attention_layernorm.weight"] = (h,)
        tensors[prefix + "mlp.gate_proj.weight"] = (shape.mlp, h)
        tensors[prefix + "mlp.up_proj.weight"] = (shape.mlp, h)
        tensors[prefix + "mlp.down_proj.weight"] = (h, shape.mlp)
    tensors["model.norm.weight"] = (h,)
    if not shape.tied:
        tensors["lm_head.weight"] = (shape.vocab, h)
    return tensors


def llama_config(shape: Shape, dtype: str) -> dict[str, object]:
    """config.json of a Llama of this shape, stored as `dtype` (a safetensors code)."""
    names = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocab,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": shape.tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": names[dtype],
    }


def make_family(
    directory: Path, shape: Shape, *, dtype: str = "BF16", seed: int = 0, tunes: int = 2, shards: int = 1
) -> Family:
    """Make `directory`/{base,tune1,tune2,…}, unless what lies there was made from the same arguments."""
    family = Family(directory / "base", tuple(directory / f"tune{i + 1}" for i in range(tunes)))
    stamp = {"format": FORMAT, "shape": asdict(shape), "dtype": dtype, "seed": seed, "tunes": tunes, "shards": shards}
    stamp_file = directory / "family.json"
    if stamp_file.exists() and json.loads(stamp_file.read_text()) == stamp:
        return family
    shutil.rmtree(directory, ignore_errors=True)
    tensors = tensor_shapes(shape)
    for model in family.models:
        write_configuration(model, llama_config(shape, dtype), vocab=shape.vocab)
    for names, file_name in _shards(tensors, shards):
        _write_models(family.models, file_name, [(name, dtype, tensors[name]) for name in names], seed)
    if shards > 1:
        _write_index(family.models, tensors, dtype, shards)
    stamp_file.write_text(json.dumps(stamp))
    return family


def benchmark_family(size: str, *, seed: int = 0) -> Family:
    """The bfloat16 family of that size (a key of SHAPES) in the benchmark directory, reused if present."""
    return make_family(data_directory() / f"{size}-seed{seed}", SHAPES[size], seed=seed)


def write_configuration(model: Path, config: dict[str, object], *, vocab: int) -> None:
    """Make the model's directory with config.json and a word-level tokenizer of at most 64 one-letter words."""
    model.mkdir(parents=True, exist_ok=True)
    (model / "config.json").write_text(json.dumps(config, indent=2))
    words = ["<unk>", "<s>", "</s>", *map(chr, range(48, 48 + 61))][:vocab]
    tokenizer: dict[str, object] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": "<unk>"},
    }
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    (model / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "eos_token": "</s>"})
    )


def base_values(name: str, start: int, count: int, seed: int) -> Array:
    """Elements [start, start + count) of a base tensor, float32; `start` is a multiple of CHUNK."""
    normal = _normals(name, start, count, (seed, 0))
    return 1 + np.float32(0.1) * normal if "norm" in name else np.float32(0.02) * normal


def tune_deltas(name: str, start: int, count: int, key: tuple[int, int]) -> Array:
    """What fine-tune `key` = (seed, 1 + its position) adds to those elements, float32."""
    normal = _normals(name, start, count, key)
    return np.float32(2e-4) * normal * np.abs(normal)


def _normals(name: str, start: int, count: int, key: tuple[int, int]) -> Array:
    entropy = [key[0], key[1], zlib.crc32(name.encode()), start // CHUNK]
    return np.random.Generator(np.random.SFC64(entropy)).standard_normal(count, dtype=np.float32)


def _shards(tensors: dict[str, tuple[int, ...]], shards: int) -> list[tuple[list[str], str]]:
    names = list(tensors)
    if shards == 1:
        return [(names, "model.safetensors")]
    per_shard = -(-len(names) // shards)
    return [
        (names[i * per_shard : (i + 1) * per_shard], f"model-{i + 1:05}-of-{shards:05}.safetensors")
        for i in range(shards)
    ]


def _write_models(
    models: Sequence[Path], file_name: str, tensors: Sequence[tuple[str, str, tuple[int, ...]]], seed: int
) -> None:
    """One file of every model at once, so that base values are drawn once per chunk."""
    head, starts = header(tensors)
    descriptors = [os.open(model / file_name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644) for model in models]
    try:
        for descriptor in descriptors:
            os.write(descriptor, head)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs = []
            for name, dtype, shape in tensors:
                elements = int(np.prod(shape, dtype=np.int64))
                for start in range(0, elements, CHUNK):
                    piece = (name, dtype, start, min(CHUNK, elements - start))
                    jobs.append(pool.submit(_write_chunk, descriptors, piece, starts[name], seed))
            for job in jobs:
                job.result()
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _write_chunk(descriptors: Sequence[int], piece: tuple[str, str, int, int], offset: int, seed: int) -> None:
    name, dtype, start, count = piece
    place = offset + start * NUMPY_OF[dtype].itemsize
    base = base_values(name, start, count, seed)
    for position, descriptor in enumerate(descriptors):
        values = base if position == 0 else base + tune_deltas(name, start, count, (seed, position))
        _write_fully(descriptor, encode(values, dtype).tobytes(), place)


def _write_fully(descriptor: int, stored: bytes, place: int) -> None:
    data = memoryview(stored)
    while data:
        written = os.pwrite(descriptor, data, place)
        data, place = data[written:], place + written


def _write_index(models: Sequence[Path], tensors: dict[str, tuple[int, ...]], dtype: str, shards: int) -> None:
    weight_map = {name: file_name for names, file_name in _shards(tensors, shards) for name in names}
    size = sum(int(np.prod(shape)) for shape in tensors.values()) * NUMPY_OF[dtype].itemsize
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    for model in models:
        (model / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.families", description="Make families, and print where.")
    parser.add_argument("size", nargs="+", choices=SHAPES)
    for requested in parser.parse_args().size:
        print(*benchmark_family(requested).models, sep="\n")
