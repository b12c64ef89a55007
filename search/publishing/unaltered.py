"""Whether a candidate is published with the files it was scored with: what lies beside its weights comes from models.

Weights are compared by their digest, and files of the run's models with what the run noted of them when it was begun
(search.whereabouts). A run of an earlier version noted nothing, and then nothing can be told.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import Refused
from engine.models.tokenizer import MODEL_FILES
from engine.planning.beside import CONFIG
from search.evaluators.beside import files_of
from search.evaluators.plans import Plans
from search.results import CandidateRow
from search.run import RunDirectory
from search.whereabouts import models_noted


def refuse_altered_models(row: CandidateRow, directory: RunDirectory) -> None:
    """Refused where a file that this candidate takes from a model is not what it was when the run was begun."""
    noted, plans = models_noted(directory), Plans()
    try:
        plan = plans.plan_of(row.recipe, origin=f"candidate {row.number}")
        for ref in dict.fromkeys((plan.donor, plan.tokenizer)):
            then, now = noted.get(str(ref)), files_of(plans.open(ref))
            changes = [] if then is None else _changes(then, now, donor=ref == plan.donor, tells=ref == plan.tokenizer)
            if changes:
                raise Refused(
                    f"{ref}: {', '.join(changes)} since the campaign began: candidate {row.number} ({row.label}) was "
                    "scored with what was there then, and would be published with what nobody scored. Restore that, or "
                    "search with the model as it is now, under another name.",
                    model=str(ref),
                )
    finally:
        plans.close()


def _changes(then: Mapping[str, str], now: Mapping[str, str], *, donor: bool, tells: bool) -> list[str]:
    """Of the files that are taken: the `donor` gives config.json and settings, who `tells` the tokenizer and templates
    (its config may decide the tokenizer's class)."""
    found = []
    for name in sorted(then.keys() | now.keys()):
        taken = name == CONFIG or (donor if name in MODEL_FILES else tells)
        if taken and then.get(name) != now.get(name):
            what = "was added" if name not in then else "is gone" if name not in now else "was altered"
            found.append(f"{name} {what}")
    return found
