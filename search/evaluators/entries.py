"""What a campaign file says about tasks, items and the resident model; docs/evaluators.md explains every key.

A task is one skill. Its items come from three places that share none (`search`, `selection`, `holdout`), or from one
place (`task` or `text`) that is cut in three (`split`). What kind of place depends on how it is scored:

    metric: package.module:function    JSONL files, scored by a function of the user's (python.py)
    text: *.txt, or files *.txt        text files, scored by how well the model predicts them (perplexity.py)
    judge: {...}                       lm-eval tasks that generate; another model grades the answers (judge.py)
    anything else                      lm-eval tasks, groups or tags (lm_eval.py)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from engine.errors import did_you_mean
from search.judging.stopping import FROM_ITEMS, LOOKS, NO_LOOKS, Looks
from search.part import MOST_OF_A_NAME, Name, Part, Weight
from search.ports import SPLITS, Split

DTYPES = Literal["float32", "bfloat16", "float16", "float64"]
Kind = Literal["lm_eval", "python", "text", "judge"]

_LM_EVAL_KEYS = ("docs", "num_fewshot", "chat_template", "system_instruction", "fewshot_as_multiturn", "gen_kwargs")
_TEXT_KEYS = ("chunk", "context", "stride")
TEXT_METRICS = ("perplexity", "bits_per_byte")
PROMPT_PLACES = ("question", "answer", "reference")


class SplitEntry(Part):
    """How one place is cut in three: all fractions (of its items; at most 1 in all), or all counts."""

    search: float = Field(gt=0)
    selection: float = Field(gt=0)
    holdout: float = Field(gt=0)

    @model_validator(mode="after")
    def _one_unit(self) -> SplitEntry:
        parts = [self.search, self.selection, self.holdout]
        if all(part < 1 for part in parts):
            if sum(parts) > 1 + 1e-9:
                raise ValueError(f"the fractions sum to {sum(parts):g}, at most 1 expected")
        elif any(part < 1 or part != int(part) for part in parts):
            raise ValueError(f"want three fractions below 1 or three whole counts, got {parts}")
        return self

    def sizes(self, total: int) -> dict[Split, int]:
        """Items of each split, of `total`: counts as they are, fractions rounded so that they never sum to more."""
        parts = {split: float(getattr(self, split)) for split in SPLITS}
        if self.search >= 1:
            return {split: int(part) for split, part in parts.items()}
        ends, reached = [0], 0.0
        for part in parts.values():
            reached += part
            ends.append(min(total, int(total * reached + 0.5)))
        return {split: ends[place + 1] - ends[place] for place, split in enumerate(parts)}


JUDGE_FREE = frozenset({"base_url", "api_key_env", "max_tokens", "concurrency", "timeout_s", "retries", "cache"})
"""Keys of a judge that no grade depends on: where and how it is asked. They are no part of the evaluation key, and may
change when a run is continued."""
JUDGE_ONCE_COUNTED = frozenset({"base_url", "max_tokens"})
"""Those of them that the evaluation keys of earlier versions went over."""


class JudgeEntry(Part):
    """Another model that grades answers, behind an OpenAI-compatible API; see judge.py.

    `prompt` may contain {question}, {answer} and {reference}. The grade is the first group of the regular expression
    `score` in the reply, or with `score_key` that key of the JSON object in the reply; `low` and `high` bound it, and
    the item's score is (grade − low) / (high − low). The key of the API is read from the environment variable
    `api_key_env`, and from nowhere else.
    """

    base_url: str
    model: str
    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    prompt: str
    score: str = r"(-?\d+(?:\.\d+)?)"
    score_key: str | None = None
    low: float = 0.0
    high: float = 10.0
    max_tokens: int = Field(default=256, ge=1)
    concurrency: int = Field(default=4, ge=1, le=64)
    timeout_s: float = Field(default=60.0, gt=0)
    retries: int = Field(default=4, ge=0)
    cache: str | None = None

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, value: str) -> str:
        if not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", value):  # not shown: it may hold what is secret
            raise ValueError("want http(s)://HOST[:PORT][/PATH], without name, password or query; a key: api_key_env")
        return value

    @field_validator("score")
    @classmethod
    def _an_expression(cls, value: str) -> str:
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise ValueError(f"got {value!r}, no regular expression: {error}") from error
        if not groups:
            raise ValueError(f"got {value!r}, which has no group: put parentheses around what is the grade")
        return value

    @field_validator("prompt")
    @classmethod
    def _places_known(cls, value: str) -> str:
        strange = [name for name in re.findall(r"\{(\w+)\}", value) if name not in PROMPT_PLACES]
        if strange:
            raise ValueError(f"{{{strange[0]}}} stands for nothing; {did_you_mean(strange[0], PROMPT_PLACES)}")
        return value

    @model_validator(mode="after")
    def _ordered(self) -> JudgeEntry:
        if not self.low < self.high:
            raise ValueError(f"want low < high, got {self.low:g} and {self.high:g}")
        if "{answer}" not in self.prompt:
            raise ValueError("prompt: has no {answer}, so every answer would get one grade")
        return self


class TaskEntry(Part):
    """One skill: where its items are, how they are scored, and its weight in the score.

    Of several metrics the first is the score and the others are measures, stored beside it. `direction` says whether
    more of the score's metric is better, where the task does not say so itself.
    """

    name: Name = Field(min_length=1, max_length=MOST_OF_A_NAME)
    search: str = ""
    selection: str = ""
    holdout: str = ""
    task: str = ""
    text: str = ""
    split: SplitEntry | None = None
    metric: str | tuple[str, ...] = ""
    direction: Literal["maximize", "minimize"] | None = None
    weight: Weight = 1.0
    docs: Literal["test", "validation", "train"] | None = None
    num_fewshot: int | None = Field(default=None, ge=0)
    chat_template: bool = False
    system_instruction: str | None = None
    fewshot_as_multiturn: bool | None = None
    gen_kwargs: Mapping[str, Any] = {}
    judge: JudgeEntry | None = None
    chunk: int = Field(default=2000, ge=0)
    context: int | None = Field(default=None, ge=2)
    stride: int | None = Field(default=None, ge=1)

    @field_validator("metric")
    @classmethod
    def _some_metric(cls, value: Any) -> Any:
        names = (value,) if isinstance(value, str) else value
        if not names or len(set(names)) < len(names):
            raise ValueError(f"want one metric or a list of different ones, got {list(names)}")
        return value

    @model_validator(mode="after")
    def _one_way_to_the_items(self) -> TaskEntry:
        named = [split for split in SPLITS if getattr(self, split)]
        whole = [key for key in ("task", "text") if getattr(self, key)]
        if len(whole) + bool(named) != 1 or (named and len(named) < len(SPLITS)):
            given = ", ".join([*named, *whole]) or "none"
            raise ValueError(f"want search, selection and holdout, or task, or text; got {given}")
        if whole and self.split is None:
            raise ValueError(
                f"{whole[0]}: one place needs `split`, such as {{search: 0.6, selection: 0.15, holdout: 0.25}}"
            )
        if named and self.split is not None:
            raise ValueError("split: cuts one place (task, text) in three; search, selection and holdout are three")
        return self

    @model_validator(mode="after")
    def _splits_differ(self) -> TaskEntry:
        for first, second in (("search", "selection"), ("search", "holdout"), ("selection", "holdout")):
            if getattr(self, first) and getattr(self, first) == getattr(self, second):
                raise ValueError(
                    f"{second} is the same task as {first}: a winner is judged on items nobody searched on"
                )
        return self

    @model_validator(mode="after")
    def _keys_of_its_kind(self) -> TaskEntry:
        foreign = {
            "lm_eval": _TEXT_KEYS,
            "judge": _TEXT_KEYS,
            "text": _LM_EVAL_KEYS,
            "python": (*_LM_EVAL_KEYS, *_TEXT_KEYS, "judge"),
        }
        given = self.model_fields_set & set(foreign[self.kind])
        at_rest = {key for key in given if getattr(self, key) == type(self).model_fields[key].default}
        if given - at_rest:
            raise ValueError(f"{min(given - at_rest)}: means nothing to a task scored by {_KINDS[self.kind]}")
        backwards, why = _BACKWARDS.get(self.kind, (None, ""))
        if self.direction is not None and self.direction == backwards:
            raise ValueError(f"direction: got {backwards!r} for {_KINDS[self.kind]}; {why}")
        if self.kind == "text":
            for metric in self.metrics:
                if metric not in TEXT_METRICS:
                    raise ValueError(f"metric: got {metric!r} for text, {did_you_mean(metric, TEXT_METRICS)}")
        if self.kind == "python" and len(self.metrics) > 1:
            raise ValueError("metric: one function scores a task; it may return several measures")
        if self.fewshot_as_multiturn and not self.chat_template:
            raise ValueError("fewshot_as_multiturn: needs chat_template: true")
        return self

    @property
    def kind(self) -> Kind:
        """Which scorer the task is for."""
        metrics = (self.metric,) if isinstance(self.metric, str) else self.metric
        if any(":" in metric for metric in metrics):
            return "python"
        if self.judge is not None:
            return "judge"
        texts = self.text or all(place.endswith(".txt") for place in self.places)
        return "text" if texts else "lm_eval"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics asked for; the first is the score."""
        if not self.metric:
            return {"text": TEXT_METRICS[:1]}.get(self.kind, ("exact_match",))
        return (self.metric,) if isinstance(self.metric, str) else tuple(self.metric)

    @property
    def places(self) -> tuple[str, ...]:
        """Where the items are: one place that is cut, or one of each split."""
        return (self.task or self.text,) if self.split is not None else (self.search, self.selection, self.holdout)

    def task_of(self, split: Split) -> str:
        """Where the items of a split are."""
        return self.places[0] if self.split is not None else self.places[SPLITS.index(split)]

    @property
    def multiturn(self) -> bool:
        """Whether few-shot examples are turns of their own, as lm-eval has it with a chat template by default."""
        return self.chat_template if self.fewshot_as_multiturn is None else self.fewshot_as_multiturn

    def key_of(self, place: str) -> str:
        """What the campaign file calls a place, for messages: `task`, `text`, `search`, `selection` or `holdout`."""
        return next(key for key in ("task", "text", *SPLITS) if getattr(self, key) == place)


_KINDS: Mapping[Kind, str] = {
    "lm_eval": "lm-eval",
    "python": "a Python function",
    "text": "the perplexity of text",
    "judge": "a judge",
}
_BACKWARDS: Mapping[Kind, tuple[str, str]] = {
    "python": ("minimize", "the larger of its scores is the better one: return the negative of what should be small"),
    "judge": ("minimize", "the higher grade is the better one: ask for a grade of the opposite in `prompt`"),
    "text": ("maximize", "less of its metrics is better, and the score is the negative"),
}
"""The direction that a task of a kind cannot have: only lm-eval tasks say which way their metrics go."""


FIRST_WINDOW = 15


class ItemsEntry(Part):
    """How many items. `window` maps search items spent so far to items per candidate (None: as suits the sampler,
    FIRST_WINDOW at first); the last three cap each task.

    `early_stopping`: windows of `looks_from` items and more are scored in parts, and losers are stopped at the shares
    of the window that `looks` names.
    """

    window: Mapping[int, Annotated[int, Field(ge=1)]] | None = None
    block_size: int = Field(default=60, ge=1)
    early_stopping: bool = True
    looks: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = LOOKS
    looks_from: int = Field(default=FROM_ITEMS, ge=1)
    fresh: bool = True
    search: int | None = Field(default=None, ge=1)
    selection: int | None = Field(default=None, ge=1)
    holdout: int | None = Field(default=None, ge=1)

    @field_validator("window")
    @classmethod
    def _starts_at_zero(cls, value: Mapping[int, int] | None) -> Mapping[int, int] | None:
        if value is not None and (0 not in value or min(value) < 0):
            raise ValueError("the schedule needs an entry for 0 items spent, and none below 0")
        return value

    def window_size(self, spent: int) -> int:
        """Items per candidate after the first `spent` search items, whatever the sampler."""
        window = self.window or {0: FIRST_WINDOW}
        return window[max(mark for mark in window if mark <= spent)]

    @property
    def early_stopping_looks(self) -> Looks:
        """When a candidate of the search may be stopped."""
        return Looks(self.looks, self.looks_from) if self.early_stopping else NO_LOOKS

    def cap(self, split: Split) -> int | None:
        """Most items per task that `split` may use; None for all."""
        return {"search": self.search, "selection": self.selection, "holdout": self.holdout}[split]


MOST_THREADS = 1024
"""More than machines have processors: torch starts as many as it is told, and the process dies of that."""


class EvaluatorEntry(Part):
    """The resident model; all of it is part of the evaluation key, but for `floor`: that decides no score."""

    engine: Literal["hf", "vllm"] = "hf"
    dtype: DTYPES = "float32"
    threads: int = Field(default=1, ge=1, le=MOST_THREADS)
    batch_size: int = Field(default=60, ge=1)
    attention: Literal["eager", "sdpa"] = "eager"
    device: str = "cpu"
    floor: bool = True

    @field_validator("device")
    @classmethod
    def _a_known_device(cls, value: str) -> str:
        if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", value):  # what torch knows beside them was never tried
            raise ValueError(f"got {value!r}; 'cpu', 'cuda' or 'cuda:N' expected.")
        return value
