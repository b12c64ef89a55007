"""Exact match of greedy answers, several times faster than generating them: one pass over a tree of prompts.

Greedy decoding gives the target exactly if, fed with the target, every next-token argmax is the target's next token,
the end included. So one forward pass says it, and it can be cut down further:

    tree     inputs that begin alike share the tokens of that beginning ("plural " is computed once, not 200 times)
    packed   no padding outside attention: a linear layer sees each token of the tree once
    last     of the last layer only the positions that predict the answer are computed

Equality with lm-eval's generation is tested (tests/bench/test_search.py). Legend: S tokens of the tree,
N items, T longest item, A answer positions, H hidden, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Pair = tuple[tuple[int, ...], tuple[int, ...]]  # tokens of the prompt, tokens of the answer with its end


@dataclass(frozen=True)
class Tree:
    """Items as one tree of tokens.

    tokens_S, position_S   of every node
    nodes_NT               the node of token t of item n; padded with node 0, which causal attention never looks at
    places_S               where in nodes_NT, flattened, a node is found
    asked_A, asked_places_A, targets_A, owner_A   the nodes that predict answers, their places, what, and for which item
    """

    tokens_S: Tensor
    position_S: Tensor
    nodes_NT: Tensor
    places_S: Tensor
    asked_A: Tensor
    asked_places_A: Tensor
    targets_A: Tensor
    owner_A: Tensor


def make_tree(pairs: Sequence[Pair]) -> Tree:
    """The tree of the pairs' inputs (all tokens but the last)."""
    numbers: dict[tuple[int, int], int] = {}  # (parent node, token) -> node
    tokens: list[int] = []
    positions: list[int] = []
    places: list[int] = []
    width = max(len(prompt) + len(answer) - 1 for prompt, answer in pairs)
    nodes: list[list[int]] = []
    asked: list[tuple[int, int, int, int]] = []
    for item, (prompt, answer) in enumerate(pairs):
        parent, row = -1, []
        for position, token in enumerate((*prompt, *answer[:-1])):
            node = numbers.setdefault((parent, token), len(tokens))
            if node == len(tokens):
                tokens.append(token)
                positions.append(position)
                places.append(item * width + position)
            parent = node
            row.append(node)
        first = len(prompt) - 1
        asked += [(row[first + step], item * width + first + step, target, item) for step, target in enumerate(answer)]
        nodes.append(row + [0] * (width - len(row)))
    columns = [torch.tensor(column) for column in zip(*asked, strict=True)]
    return Tree(torch.tensor(tokens), torch.tensor(positions), torch.tensor(nodes), torch.tensor(places), *columns)


@dataclass(frozen=True)
class Parts:
    """One architecture as functions of packed hidden states and of a model's weights by name.

    layer(w, i) gives (attention input norm, fused or split projections, output projection, MLP), see the two makers.
    """

    embedding: str
    qkv: Callable[[Mapping[str, Tensor], int, Tensor], tuple[Tensor, Tensor, Tensor]]
    finish: Callable[[Mapping[str, Tensor], int, Tensor, Tensor], Tensor]
    logits: Callable[[Mapping[str, Tensor], Tensor], Tensor]


class FastForward:
    """Scores items on a live transformers model, whose parameters may be overwritten between calls.

    Args:
        model: the model, for its shape and its rotary positions.
        weights: where each tensor of its checkpoint lies in it, by name.

    Raises ValueError for an architecture that it does not know.
    """

    def __init__(self, model: Any, weights: Mapping[str, Tensor]) -> None:
        config = model.config
        if config.model_type not in _PARTS:
            raise ValueError(f"no fast forward pass for {config.model_type!r}, only for {', '.join(_PARTS)}")
        self._weights = weights
        self._parts = _PARTS[config.model_type](config)
        self._layers, self._heads = config.num_hidden_layers, config.num_attention_heads
        rotary = model.get_submodule(model.base_model_prefix).rotary_emb
        positions = torch.arange(config.max_position_embeddings)[None]
        with torch.inference_mode():
            cos, sin = rotary(torch.zeros(1), positions)
        self._cos_PD, self._sin_PD = cos[0], sin[0]

    def exact(self, tree: Tree) -> list[bool]:
        """Whether each item's greedy answer is its target."""
        weights, parts = self._weights, self._parts
        with torch.inference_mode():
            hidden_SH = functional.embedding(tree.tokens_S, weights[parts.embedding])
            rotary = (self._cos_PD[tree.position_S][:, None], self._sin_PD[tree.position_S][:, None])
            for layer in range(self._layers):
                last = layer == self._layers - 1
                attended = self._attend(layer, hidden_SH, tree=tree, rotary=rotary)
                places = tree.asked_places_A if last else tree.places_S
                kept_SH = hidden_SH[tree.asked_A] if last else hidden_SH
                hidden_SH = parts.finish(weights, layer, kept_SH, attended[places])
            right_A = parts.logits(weights, hidden_SH).argmax(-1) == tree.targets_A
            wrong_N = torch.zeros(len(tree.nodes_NT)).index_add_(0, tree.owner_A, (~right_A).float())
        return (wrong_N == 0).tolist()

    def _attend(self, layer: int, hidden_SH: Tensor, *, tree: Tree, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """[N·T, H]: causal attention of every item over its own path through the tree."""
        query, key, value = self._parts.qkv(self._weights, layer, hidden_SH)
        split = [part.view(len(part), self._heads, -1) for part in (query, key, value)]
        turned = [_rotate(split[0], *rotary), _rotate(split[1], *rotary), split[2]]
        padded = [part[tree.nodes_NT].transpose(1, 2) for part in turned]
        out_NHTD = functional.scaled_dot_product_attention(*padded, is_causal=True)
        return out_NHTD.transpose(1, 2).reshape(tree.nodes_NT.numel(), -1)


def _rotate(x_SHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on the first dimensions, as far as cos and sin reach."""
    turned, passed = x_SHD[..., : cos.shape[-1]], x_SHD[..., cos.shape[-1] :]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned, passed), dim=-1) if passed.shape[-1] else turned


def _llama(config: Any) -> Parts:
    eps = config.rms_norm_eps

    def norm(w: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
        return w[name] * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))

    def qkv(w: Mapping[str, Tensor], i: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        at = f"model.layers.{i}."
        y = norm(w, at + "input_layernorm.weight", x)
        q, k, v = (functional.linear(y, w[f"{at}self_attn.{part}_proj.weight"]) for part in "qkv")
        return q, k, v

    def finish(w: Mapping[str, Tensor], i: int, x: Tensor, attended: Tensor) -> Tensor:
        at = f"model.layers.{i}."
        x = x + functional.linear(attended, w[at + "self_attn.o_proj.weight"])
        y = norm(w, at + "post_attention_layernorm.weight", x)
        gate, up = (functional.linear(y, w[f"{at}mlp.{part}_proj.weight"]) for part in ("gate", "up"))
        return x + functional.linear(functional.silu(gate) * up, w[at + "mlp.down_proj.weight"])

    def logits(w: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return functional.linear(norm(w, "model.norm.weight", x), w["model.embed_tokens.weight"])

    assert config.tie_word_embeddings
    assert config.num_key_value_heads == config.num_attention_heads
    return Parts("model.embed_tokens.weight", qkv, finish, logits)


def _gpt_neox(config: Any) -> Parts:
    heads, eps, width = config.num_attention_heads, config.layer_norm_eps, (config.hidden_size,)

    def norm(w: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
        return functional.layer_norm(x, width, w[name + ".weight"], w[name + ".bias"], eps)

    def linear(w: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
        return functional.linear(x, w[name + ".weight"], w[name + ".bias"])

    def qkv(w: Mapping[str, Tensor], i: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        at = f"gpt_neox.layers.{i}."
        fused = linear(w, at + "attention.query_key_value", norm(w, at + "input_layernorm", x))
        q, k, v = fused.view(len(x), heads, -1).chunk(3, dim=-1)
        return q, k, v

    def finish(w: Mapping[str, Tensor], i: int, x: Tensor, attended: Tensor) -> Tensor:
        at = f"gpt_neox.layers.{i}."
        y = norm(w, at + "post_attention_layernorm", x)
        inner = functional.gelu(linear(w, at + "mlp.dense_h_to_4h", y))
        return linear(w, at + "mlp.dense_4h_to_h", inner) + linear(w, at + "attention.dense", attended) + x

    def logits(w: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return functional.linear(norm(w, "gpt_neox.final_layer_norm", x), w["embed_out.weight"])

    return Parts("gpt_neox.embed_in.weight", qkv, finish, logits)


_PARTS: Mapping[str, Callable[[Any], Parts]] = {"llama": _llama, "gpt_neox": _gpt_neox}
