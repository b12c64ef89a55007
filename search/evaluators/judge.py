"""Answers graded by another model, behind an OpenAI-compatible API: `judge:` in a task of generated answers.

The live model answers the items of an lm-eval task (generate_until); the judge gets the campaign's prompt with
question, answer and reference in it, and its reply holds a grade. The item's score is (grade − low) / (high − low).

A judge is no function: asked twice, it may grade differently. So a grade is kept under the digest of all that it
depends on and asked again from nobody; with `cache` it is kept in a file, one JSON object a line, that later runs read,
too. The key of the API comes from an environment variable and appears in no message, file or digest.

A reply without text (a content filter, an overloaded server, reasoning that used `max_tokens` up) or without a grade
may be the judge's fault or the answer's. Where asking again does not help, the judge is asked about a made-up answer:
if it grades that one and, once more, not this one, the candidate fails; else it is an outage, and nobody's fault.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from engine.errors import CampaignError, EvaluationError
from search.evaluators.contract import Scored, Subject, Unreachable, digest
from search.evaluators.entries import JUDGE_FREE, JUDGE_ONCE_COUNTED, PROMPT_PLACES, JudgeEntry, TaskEntry
from search.evaluators.lm_eval import Answer, LmEvalScorer
from search.ports import Item, Split

BUSY = frozenset({408, 409, 429, 500, 502, 503, 504})  # worth another attempt
OF_THE_ANSWER = frozenset({400, 413, 422})  # too long, say; any other refusal is of the key, the model or the address
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
PATIENCE_S = 30.0
"""After this an attempt is the last one: the campaign then waits, says so, and asks again (search/outage.py)."""
UNGRADED_AGAIN = 2
"""How often a judge is asked again whose text holds no grade: at temperature 0 it mostly repeats itself."""
SHOWN_CHARS = 120
PROBE = Answer("Is the endpoint there?", "It answers.", "It answers.")


class JudgeScorer:
    """Scores generating lm-eval tasks by what a judge says of the answers. Measures are those of the tasks.

    Raises CampaignError where a key is not in the environment or a task generates nothing.
    """

    def __init__(
        self,
        entries: Sequence[TaskEntry],
        answers: LmEvalScorer,
        *,
        origin: str = "<campaign>",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        answers.refuse_silent()
        self._answers = answers
        judges = {entry.name: entry.judge for entry in entries if entry.judge is not None}
        self._judges = {name: Judge(judge, name, origin=origin, sleep=sleep) for name, judge in judges.items()}
        self._task_of = {item.key: item.task for items in answers.items().values() for item in items}

    def items(self) -> Mapping[Split, tuple[Item, ...]]:
        return self._answers.items()

    def texts(self) -> Mapping[str, str]:
        return self._answers.texts()

    def facts(self) -> Mapping[str, Any]:
        """The tasks' facts and what is asked of the judge."""
        return self._facts({name: judge.facts() for name, judge in self._judges.items()})

    def former_facts(self) -> Mapping[str, Any]:
        """See TellsFormerFacts."""
        return self._facts({name: judge.former_facts() for name, judge in self._judges.items()})

    def settings(self) -> Mapping[str, str]:
        """Per item the digest of its task's settings and of what is asked of its judge."""
        asked = {name: judge.facts() for name, judge in self._judges.items()}
        answered = self._answers.settings()
        return {key: digest(["judge", answered[key], asked[name]]) for key, name in self._task_of.items()}

    def _facts(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"scorer": "judge", "tasks": self._answers.facts(), "judges": dict(sorted(asked.items()))}

    def measures(self) -> frozenset[str]:
        return self._answers.all_metrics()

    def notes(self) -> Sequence[str]:
        graded = {judge.entry.model for judge in self._judges.values()}
        return [*self._answers.notes(), *(f"answers were graded by {model}" for model in sorted(graded))]

    def probe(self) -> None:
        """One request to every judge."""
        for judge in self._judges.values():
            judge.probe()

    def score(self, subject: Subject, keys: Sequence[str]) -> Scored:
        """Generate the answers of the block, and have them graded, several at a time."""
        answers, measures = self._answers.answers(subject, keys)
        scores: dict[str, float] = {}
        for name, judge in self._judges.items():
            mine = {key: answer for key, answer in answers.items() if self._task_of[key] == name}
            scores |= judge.grade(mine)
        return Scored(scores, measures)


class Judge:
    """One judge: prompt, endpoint and the grades it gave. `origin` is the campaign file."""

    def __init__(
        self, entry: JudgeEntry, task: str, *, origin: str = "<campaign>", sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.entry, self._task, self._origin, self._sleep = entry, task, origin, sleep
        self._grades = _read_grades(entry.cache)
        if entry.api_key_env is not None and not os.environ.get(entry.api_key_env):
            raise CampaignError(
                f"{origin}: task {task!r}: judge.api_key_env: the environment has no {entry.api_key_env}: export "
                "it, or leave the key out for an endpoint that needs none"
            )

    def facts(self) -> dict[str, Any]:
        """All that grades depend on; where, how often and how fast it is asked does not matter."""
        return self.entry.model_dump(exclude=set(JUDGE_FREE))

    def former_facts(self) -> dict[str, Any]:
        """What `facts` were in versions that counted the address and the limit of a reply among them."""
        return self.entry.model_dump(exclude=set(JUDGE_FREE - JUDGE_ONCE_COUNTED))

    def grade(self, answers: Mapping[str, Answer]) -> dict[str, float]:
        """Item → score. EvaluationError where the judge gives no grade, Unreachable where it does not answer.

        What came before a failure is kept: the next attempt asks for the rest only.
        """
        asked = {key: self._prompt(answer) for key, answer in answers.items()}
        digests = {key: self._known_as(prompt) for key, prompt in asked.items()}
        new = {digests[key]: prompt for key, prompt in asked.items() if digests[key] not in self._grades}
        found, failures = self._grade_all(new)
        self._grades |= found
        _append_grades(self.entry.cache, found)
        if failures:
            raise next((failure for failure in failures if isinstance(failure, EvaluationError)), failures[0])
        return {key: self._grades[digests[key]] for key in answers}

    def _known_as(self, prompt: str) -> str:
        """What the grade of a prompt is kept under; a file may hold it as earlier versions did."""
        former = digest([self.former_facts(), prompt])
        return former if former in self._grades else digest([self.facts(), prompt])

    def _grade_all(self, prompts: Mapping[str, str]) -> tuple[dict[str, float], list[_Failure]]:
        """The scores of those prompts that a grade came for, and why none came for the others."""
        gave_up: list[_Failure] = []
        found: dict[str, float] = {}
        failures: list[_Failure] = []
        with ThreadPoolExecutor(self.entry.concurrency) as pool:
            calls = {name: pool.submit(self._ask, prompt, gave_up) for name, prompt in prompts.items()}
            for name, call in calls.items():
                try:
                    found[name] = call.result()
                except (EvaluationError, Unreachable) as failure:
                    failures.append(failure)
        return found, failures

    def probe(self) -> None:
        """Ask once whether endpoint, key and model are there, and give grades. CampaignError where they are not.

        Not where grades were read from a file: a campaign that is repeated needs nobody.
        """
        if self._grades:
            return
        try:
            self._attempts(self._prompt(PROBE), [])
        except (EvaluationError, _Busy) as failure:
            why = str(failure) if isinstance(failure, EvaluationError) else self._unreachable(failure)
            raise CampaignError(
                f"{self._origin}: {str(why).rstrip('.')}. Nothing is scored before it answers with a grade: see to "
                "that, and run the same command again."
            ) from None

    def _prompt(self, answer: Answer) -> str:
        """The prompt with the three texts in their places; braces inside the texts stay as they are."""
        texts = {"question": answer.question, "answer": answer.answer, "reference": answer.reference}
        return re.sub(rf"\{{({'|'.join(PROMPT_PLACES)})\}}", lambda found: texts[found[1]], self.entry.prompt)

    def _read(self, reply: _Reply) -> float:
        """The score in a reply. _NoGrade where there is none, or one out of bounds."""
        entry, text = self.entry, reply.text
        try:
            if entry.score_key is not None:
                grade = float(json.loads(text[text.index("{") : text.rindex("}") + 1])[entry.score_key])
            else:  # the last word before a cut may be half a number
                found = re.search(entry.score, re.sub(r"\S*$", "", text) if reply.cut else text)
                grade = float(found.group(1)) if found else float("nan")
        except (ValueError, LookupError, TypeError):
            grade = float("nan")
        if entry.low <= grade <= entry.high:
            return (grade - entry.low) / (entry.high - entry.low)
        if not text.strip():
            why = f"a reply without text{reply.finished}"
        else:
            shown = text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + " …"
            why = f"no grade from {entry.low:g} to {entry.high:g} in {shown!r}"
        if reply.cut:
            why += f" (cut at judge.max_tokens {entry.max_tokens}: raise that, --resume takes another value)"
        raise _NoGrade(why, again=UNGRADED_AGAIN if text.strip() else None)

    def _ask(self, prompt: str, gave_up: list[_Failure]) -> float:
        """The score of one answer.

        `gave_up` is shared by the requests of a block: where one has given up, the others are not made any more.
        """
        try:
            try:
                return self._attempts(prompt, gave_up)
            except _NoGrade as failure:
                return self._settle(prompt, failure)
            except _Busy as failure:
                raise self._unreachable(failure) from None
        except (EvaluationError, Unreachable) as failure:
            gave_up.append(failure)
            raise

    def _attempts(self, prompt: str, gave_up: Sequence[_Failure]) -> float:
        """The score in a reply, with growing pauses between attempts; _Busy where none came."""
        began = time.monotonic()
        for attempt in range(self.entry.retries + 1):
            if gave_up:
                raise gave_up[0]
            try:
                return self._read(self._post(prompt))
            except _Busy as busy:
                most = self.entry.retries if busy.again is None else min(busy.again, self.entry.retries)
                if attempt >= most or time.monotonic() - began > PATIENCE_S:
                    busy.why += ", 1 attempt" if attempt == 0 else f", {attempt + 1} attempts"
                    raise
                self._sleep(max(busy.after_s, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt)))
        raise AssertionError("the loop returns or raises")

    def _settle(self, prompt: str, failure: _NoGrade) -> float:
        """Whose fault it is that no grade came: Unreachable, or EvaluationError for the answer's; a late grade."""
        try:
            self._read(self._post(self._prompt(PROBE)))
        except (_Busy, EvaluationError):
            failure.why += ", nor a grade for a made-up answer"
            raise self._unreachable(failure) from None
        try:
            return self._read(self._post(prompt))
        except _NoGrade as again:
            raise EvaluationError(
                f"task {self._task!r}: judge {self.entry.model}: {again.why}; a made-up answer is graded."
            ) from None
        except _Busy as busy:
            raise self._unreachable(busy) from None

    def _unreachable(self, busy: _Busy) -> Unreachable:
        return Unreachable(f"task {self._task!r}: judge at {self.entry.base_url}: {busy.why}.")

    def _post(self, prompt: str) -> _Reply:
        entry = self.entry
        body = {
            "model": entry.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": entry.max_tokens,
            "temperature": 0,
        }
        request = urllib.request.Request(
            f"{entry.base_url.rstrip('/')}/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **_authorization(entry)},
        )
        try:
            with _OPENER.open(request, timeout=entry.timeout_s) as response:
                return _reply(json.load(response))
        except urllib.error.HTTPError as error:
            if error.code in BUSY:
                raise _Busy(f"HTTP {error.code}", after_s=_retry_after(error)) from None
            why = f"HTTP {error.code} for model {entry.model!r}"
            if error.code not in OF_THE_ANSWER:
                raise _Busy(why, again=0) from None
            raise EvaluationError(f"task {self._task!r}: judge at {entry.base_url}: {why}.") from None
        except (OSError, http.client.HTTPException) as error:
            raise _Busy(_reason(error)) from None
        except (ValueError, LookupError, TypeError):
            raise _Busy("a reply that is no chat completion") from None


_Failure = EvaluationError | Unreachable


class _Reply(NamedTuple):
    """What a judge said; `finished` tells why it ended where that is unusual, `cut` that it was for its length."""

    text: str
    finished: str = ""
    cut: bool = False


def _reply(completion: Any) -> _Reply:
    """The reply in a chat completion. ValueError, LookupError or TypeError where it is none."""
    choice = completion["choices"][0]
    message, reason = choice["message"], choice.get("finish_reason")
    text = {**message}.get("content")
    if text is not None and not isinstance(text, str):
        raise TypeError(type(text).__name__)
    usual = reason in ("stop", None) or not isinstance(reason, str)
    return _Reply(text or "", "" if usual else f", finish_reason {reason[:SHOWN_CHARS]!r}", cut=reason == "length")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirection would carry the key to wherever it points: it is an error."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


class _Busy(Exception):
    """The endpoint may answer another time, but hardly after it was asked `again` so often (None: no matter)."""

    def __init__(self, why: str, *, after_s: float = 0.0, again: int | None = None) -> None:
        super().__init__(why)
        self.why, self.after_s, self.again = why, after_s, again


class _NoGrade(_Busy):
    """It answered, and no grade came: the judge's fault, or the answer's."""


def _reason(error: Exception) -> str:
    """What went wrong with a connection, in the system's words; never the request, which holds the key."""
    inner = getattr(error, "reason", error)
    if isinstance(inner, TimeoutError):
        return "no answer in time"
    return str(getattr(inner, "strerror", None) or type(inner).__name__)


def _authorization(entry: JudgeEntry) -> dict[str, str]:
    key = os.environ.get(entry.api_key_env or "", "")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _retry_after(error: urllib.error.HTTPError) -> float:
    """Seconds that the endpoint asks to wait, at most LONGEST_WAIT_S."""
    try:
        return min(LONGEST_WAIT_S, max(0.0, float(error.headers.get("Retry-After") or 0)))
    except ValueError:
        return 0.0


def _read_grades(cache: str | None) -> dict[str, float]:
    """Grades of earlier runs; a torn last line is left out."""
    grades: dict[str, float] = {}
    if cache is None or not Path(cache).exists():
        return grades
    for line in Path(cache).read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            grades.setdefault(str(row["asked"]), float(row["score"]))
        except (ValueError, LookupError, TypeError):
            continue
    return grades


def _append_grades(cache: str | None, grades: Mapping[str, float]) -> None:
    """One write on an O_APPEND descriptor, so that lines of several evaluators never mix."""
    if cache is None or not grades:
        return
    lines = "".join(json.dumps({"asked": asked, "score": score}) + "\n" for asked, score in grades.items())
    descriptor = os.open(cache, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, lines.encode())
    finally:
        os.close(descriptor)
