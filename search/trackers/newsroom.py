"""Events of the machine → what trackers are told. Pure: it reads the live campaign and keeps count.

A restart replays the rows through the same `LiveCampaign.apply`, so the same news come out under the same numbers.
Losses on the holdout may be taken back, and their rows with them: they are told with the verdict.
"""

from __future__ import annotations

from search import campaign as machine
from search.campaign_file import Campaign
from search.live import LiveCampaign
from search.ports import Verdict
from search.run import Run
from search.trackers.contract import CandidateScored, Judged, MeanMoved, News, Started


class Newsroom:
    """`pending` are the news of events that are not committed yet; whoever commits takes them."""

    def __init__(self, run: Run, live: LiveCampaign) -> None:
        self._stages = [stage.name for stage in run.space.stages]
        self._titles = [entry.title for entry in run.campaign.objectives]
        self._live = live
        self._at = 0
        self._failed = 0
        self._means = [0] * len(self._stages)
        self._lost: list[machine.Lost] = []
        self.pending: list[News] = [Started(run.campaign.name, facts_of(run.campaign))]
        live.listener = self.hear

    def take(self) -> list[News]:
        """What is pending, which then is not any more."""
        taken, self.pending = self.pending, []
        return taken

    def hear(self, event: machine.Event) -> None:
        """An event that the machine has taken in."""
        if isinstance(event, machine.LostTriedAgain):
            self._lost.clear()
        elif isinstance(event, machine.Lost) and event.split == "holdout":
            self._lost.append(event)
        elif isinstance(event, machine.Scored | machine.Stopped | machine.Lost):
            self.pending.append(self._scored(event))
        means = self._live.sampler.means()
        for stage, known in enumerate(means):
            if len(known) > self._means[stage]:
                self._means[stage] = len(known)
                mean = {name: float(value) for name, value in known[-1].items() if not isinstance(value, str)}
                self.pending.append(MeanMoved(self._next(), self._stages[stage], self._live.state.spent, mean))

    def judged(self, verdict: Verdict) -> None:
        """The campaign has its answer."""
        self.pending += [self._scored(event) for event in self._lost]
        over = {found.label: (found.difference, found.lower) for found in verdict.comparisons}
        answer = (verdict.sentence, verdict.significant, verdict.label, verdict.score, verdict.interval)
        self.pending.append(Judged(self._next(), *answer, over))

    def _scored(self, event: machine.Scored | machine.Stopped | machine.Lost) -> CandidateScored:
        point, lost = self._live.points[event.number], isinstance(event, machine.Lost)
        self._failed += lost
        best = self._live.best()
        values = () if isinstance(event, machine.Lost) else event.values
        return CandidateScored(
            at=self._next(),
            number=event.number,
            label=point.label,
            stage="" if point.stage < 0 else self._stages[point.stage],
            split="search" if isinstance(event, machine.Stopped) else event.split,
            score=None if isinstance(event, machine.Lost) else event.score,
            best=None if best is None else best[1],
            items=self._live.state.spent,
            failed=self._failed,
            stopped=isinstance(event, machine.Stopped),
            cause=event.cause if isinstance(event, machine.Lost) else "",
            values=dict(zip(self._titles, values, strict=False)),
        )

    def _next(self) -> int:
        self._at += 1
        return self._at


def facts_of(campaign: Campaign) -> dict[str, str]:
    """What one filters and compares runs by. Neither the store's URL nor where the winner goes."""
    budget = {name: value for name, value in campaign.budget.model_dump().items() if value is not None}
    return {
        "campaign": campaign.name,
        "seed": str(campaign.seed),
        "sampler": campaign.sampler,
        "base_model": campaign.base_model,
        "sources": ", ".join(campaign.source_names),
        "tasks": ", ".join(task.name for task in campaign.tasks),
        "method": str(campaign.space.method),
        "stages": ", ".join(stage.name for stage in campaign.space.stages),
        **{f"budget.{name}": str(value) for name, value in budget.items()},
    }
