"""Text files as a scorer: how well the model predicts them. Nothing is generated, so it works for base models, too.

A file is cut into *chunks* of about `chunk` characters at white space (0: a file is one item). An item's score is

    metric: perplexity       (1/T) Σ_t ln p(token_t | tokens before it)                 = −(nats per token)
    metric: bits_per_byte    (1/(B ln 2)) Σ_t ln p(token_t | tokens before it)          = −(bits per byte)

so larger is better, and exp(−mean score) is the perplexity. T counts the predicted tokens, B the bytes of the chunk in
UTF-8; bits per byte compare models of different tokenizers, nats per token those of one. The measure `tokens` is T.

Long chunks are read in windows of `context` tokens (the model's own limit by default, 2048 at most) that begin `stride`
tokens apart (half a window by default): a token is predicted once, in the first window that reaches it, so all but the
first see at least `context − stride` tokens before them. The first token follows the tokenizer's beginning-of-text
token, or its end-of-text token as in lm-eval; where there is neither it is not predicted.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import CampaignError, EvaluationError
from search.evaluators.contract import Places, Scored, Subject, digest, text_digest
from search.evaluators.entries import TaskEntry
from search.evaluators.splitting import items_of
from search.ports import Item, Split

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_CONTEXT = 2048
TOKENS = "tokens"


@dataclass(frozen=True)
class Window:
    """A run of tokens that one forward pass reads; only the last `predicted` of them are scored in it."""

    tokens: tuple[int, ...]
    predicted: int


class TextScorer:
    """Scores chunks of text files by their log-likelihood.

    Args:
        entries: tasks whose places are text files, or patterns of them such as `corpus/*.txt`.
        places: where the files are.
        batch_size: most windows per forward pass.

    Raises CampaignError where a pattern matches nothing, or a file is no UTF-8 text.
    """

    def __init__(self, entries: Sequence[TaskEntry], places: Places | None = None, *, batch_size: int = 60) -> None:
        self._places, self._batch_size = places or Places(), batch_size
        self._chunks: dict[str, tuple[TaskEntry, str]] = {}
        self._entries = tuple(entries)
        self._items = items_of(entries, self._read, seed=self._places.seed, origin=self._places.origin)

    def items(self) -> Mapping[Split, tuple[Item, ...]]:
        return self._items

    def texts(self) -> Mapping[str, str]:
        return {key: text for key, (_, text) in self._chunks.items()}

    def facts(self) -> Mapping[str, Any]:
        settings = {entry.name: [entry.metrics, entry.context, entry.stride] for entry in self._entries}
        return {"scorer": "text", "settings": settings, "longest": LONGEST_CONTEXT}

    def settings(self) -> Mapping[str, str]:
        """Per item the digest of its task's settings."""
        by_name = {e.name: digest(["text", LONGEST_CONTEXT, e.metrics, e.context, e.stride]) for e in self._entries}
        return {key: by_name[entry.name] for key, (entry, _) in self._chunks.items()}

    def measures(self) -> frozenset[str]:
        return frozenset({TOKENS, *(metric for entry in self._entries for metric in entry.metrics[1:])})

    def notes(self) -> Sequence[str]:
        return []

    def score(self, subject: Subject, keys: Sequence[str]) -> Scored:
        """The chunks of a block; their windows are batched in the order of keys and places."""
        windows: list[tuple[str, Window]] = []
        for key in sorted(keys):
            entry, text = self._chunks[key]
            windows += [(key, window) for window in windows_of(subject, text, entry)]
        sums: dict[str, float] = defaultdict(float)
        counts: dict[str, int] = defaultdict(int)
        for start in range(0, len(windows), self._batch_size):
            batch = windows[start : start + self._batch_size]
            for (key, window), value in zip(batch, loglikelihoods(subject, [w for _, w in batch]), strict=True):
                sums[key] += value
                counts[key] += window.predicted
        scores: dict[str, float] = {}
        measures: dict[str, dict[str, float]] = defaultdict(dict)
        for key in sorted(keys):
            entry, text = self._chunks[key]
            if not counts[key]:
                raise EvaluationError(
                    f"item {key!r}: the tokenizer makes no token of it that could be predicted", item=key
                )
            values = {
                "perplexity": sums[key] / counts[key],
                "bits_per_byte": sums[key] / len(text.encode()) / math.log(2),
            }
            scores[key] = values[entry.metrics[0]]
            measures[TOKENS][key] = float(counts[key])
            for metric in entry.metrics[1:]:
                measures[metric][key] = -values[metric]  # a measure stands as it is: less is better
        return Scored(scores, dict(measures))

    def _read(self, entry: TaskEntry, place: str) -> list[Item]:
        where = self._places.where(entry, place)
        paths = _matching(self._places.path(place))
        if not paths:
            raise CampaignError(f"{where}: {self._places.path(place)} matches no file", path=place)
        items = []
        for path in paths:
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise CampaignError(f"{where}: cannot read {path}: {error}", path=str(path)) from error
            for number, chunk in enumerate(cut_text(text, entry.chunk)):
                key = f"{entry.name}/{path.name}/{number:05d}"
                if key in self._chunks:
                    raise CampaignError(f"{where}: two files are called {path.name!r}: give each its own", item=key)
                self._chunks[key] = (entry, chunk)
                items.append(Item(key, entry.name, digest(chunk), path.name, text=text_digest(chunk)))
        if not items:
            raise CampaignError(f"{where}: {', '.join(map(str, paths[:3]))}: no text in it", path=place)
        return items


def _matching(pattern: Path) -> list[Path]:
    """The files that a path names, which may have `*` and `**` in it, sorted."""
    if not any(sign in str(pattern) for sign in "*?["):
        return [pattern]
    return sorted(
        path for path in Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))) if path.is_file()
    )


def cut_text(text: str, size: int) -> list[str]:
    """Pieces of about `size` characters that end before white space; 0: all of it is one piece.

    >>> cut_text("one two three four", 9)
    ['one two', ' three', ' four']
    """
    if not text.strip():
        return []
    if size == 0:
        return [text]
    pieces = [""]
    for word in re.findall(r"\s*\S+|\s+$", text):
        if pieces[-1] and len(pieces[-1]) + len(word) > size:
            pieces.append("")
        pieces[-1] += word
    return [piece for piece in pieces if piece.strip()]


def windows_of(subject: Subject, text: str, entry: TaskEntry) -> Iterator[Window]:
    """The windows of a chunk, so that every token is predicted exactly once. EvaluationError for a longer context."""
    limit = _limit(subject.model)
    context = entry.context or min(limit, LONGEST_CONTEXT)
    if context > limit:
        raise EvaluationError(f"task {entry.name!r}: context: got {context}, the model reads {limit} tokens at most")
    stride = min(entry.stride or max(1, context // 2), context - 1)
    start = subject.tokenizer.bos_token_id
    start = subject.tokenizer.eos_token_id if start is None else start
    tokens = subject.tokenizer.encode(text, add_special_tokens=False, verbose=False)  # windows are what it warns of
    tokens = tokens if start is None else [start, *tokens]
    done = 1  # the first is only read
    while done < len(tokens):
        end = min(len(tokens), context if done == 1 else done + stride)
        yield Window(tuple(tokens[max(0, end - context) : end]), end - done)
        done = end


def _limit(model: Any) -> int:
    """Tokens that the model can read at once."""
    config = model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or LONGEST_CONTEXT)


def loglikelihoods(subject: Subject, windows: Sequence[Window]) -> list[float]:
    """Σ ln p over the predicted tokens of each window, summed in float64. One forward pass, padded on the right."""
    import torch

    width = max(len(window.tokens) for window in windows)
    ids = torch.zeros((len(windows), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, window in enumerate(windows):
        ids[row, : len(window.tokens)] = torch.tensor(window.tokens)
        mask[row, : len(window.tokens)] = 1
    device = subject.model.device
    with torch.inference_mode():
        logits = subject.model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
    return [_sum(logits[row], window) for row, window in enumerate(windows)]


def _sum(logits: Tensor, window: Window) -> float:
    import torch

    length = len(window.tokens)
    targets = torch.tensor(window.tokens[length - window.predicted :], device=logits.device)
    places = logits[length - window.predicted - 1 : length - 1].float().log_softmax(-1)
    return float(places.gather(1, targets[:, None]).double().sum())
