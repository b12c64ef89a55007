"""Open a run: check the campaign against its items and models, take over the store, make the coordinator."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.errors import CampaignError, InputsChanged, OutputExists
from search.baselines import make_baselines
from search.campaign_file import Campaign
from search.coordinator import Coordinator
from search.desk import is_impossible
from search.ends import devices
from search.judging.forwards import FORWARDS
from search.judging.objectives import refuse_unmeasured
from search.live import sampler_of
from search.pools import Pools, make_pools, window_items
from search.ports import SPLITS, Inventory
from search.run import Run, RunDirectory, Services
from search.space import make_space
from search.store import schema
from search.store.changes import NAMED, changes, refuse_changes
from search.store.store import LOCK_WAIT_S, CampaignFacts, Store, store_url, stored_config
from search.store.transaction import Row
from search.trackers.outlet import forget_told
from search.warm import Elites, elites_from_rows, elites_to_rows, read_elites
from search.whereabouts import Models, models_noted, remember

FREE_KEYS = frozenset({"budget", "publish", "store", "trackers"})
"""Keys of a campaign that may change between a run and its continuation (budget only while the search lasts)."""

CHECKED = 8
"""Candidates beside the baselines whose models are looked at before a run goes on."""


@dataclass(frozen=True)
class Start:
    """How to open: where the run lives, the models' number of layers, whether to continue a run that is there.

    `again`: this process ran it already, and goes on if nobody took over since (lasting.py).
    """

    directory: RunDirectory
    layers: int
    resume: bool = False
    lock_wait_s: float = LOCK_WAIT_S
    again: bool = False


def open_coordinator(campaign: Campaign, inventory: Inventory, *, start: Start, services: Services) -> Coordinator:
    """Start a run, or continue it (epoch += 1, memory rebuilt from the rows).

    Raises CampaignError (splits overlap, the space does not fit, the budget is too small), OutputExists (a run is
    there and `resume` is False), InputsChanged (resumed with another campaign, evaluator, items or models),
    Busy (the store is locked by a process that cannot be ended from here).
    """
    run = open_run(campaign, inventory, start=start, services=services)
    try:
        return Coordinator(run, services)
    except BaseException:
        run.store.close()
        raise


def open_run(campaign: Campaign, inventory: Inventory, *, start: Start, services: Services) -> Run:
    """Everything but the coordinator; see `open_coordinator`."""
    pools = make_pools(campaign, inventory)
    space = make_space(campaign, layers=start.layers)
    baselines = make_baselines(campaign)
    sampler_of(campaign, space, baselines=len(baselines))  # whether it fits is said before anything is written
    check_budget(campaign, len(baselines), population=space.stages[0].population, pool=pools.searched)
    if inventory.measures is not None:
        known = {*inventory.measures, *([] if services.layers_of is None else [FORWARDS])}
        refuse_unmeasured(campaign.objectives, campaign.constraints, known=known, origin=campaign.origin)
    store = Store(store_url(campaign.store, default=start.directory.database), lock_wait_s=start.lock_wait_s)
    run = Run(
        campaign=campaign,
        directory=start.directory,
        space=space,
        pools=pools,
        baselines=baselines,
        eval_key=inventory.key,
        store=store,
        notes=inventory.notes,
    )
    try:
        row = _take(run, inventory, start=start, services=services)
        _note_items(store, pools, eval_key=inventory.key)
    except BaseException:
        store.close()
        raise
    return replace(
        run,
        seconds_before=float(row["seconds"]),
        elites=elites_from_rows(row["elites"]),
        stored_config=row["config"],
    )


def _take(run: Run, inventory: Inventory, *, start: Start, services: Services) -> Row:
    """Take the campaign over, if it may be; its row. Nothing is written before it is known that it may.

    A run of which nothing was ever scored is no obstacle: its first start failed, and the next one begins anew.
    """
    campaign, store = run.campaign, run.store
    facts = CampaignFacts(
        name=campaign.name,
        config=stored_config(campaign),
        eval_key=inventory.key,
        items_digest=items_digest(inventory),
        layers=start.layers,
    )
    found = store.find(campaign.name)
    if found is not None:
        found = {**found, "eval_key": inventory.present_key(found["eval_key"])}
    if found is None and start.again:
        raise CampaignError(
            f"{store.place}: the run of campaign {campaign.name!r} is not there any more: was it removed?"
        )
    afresh = found is not None and not start.again and _begins_anew(store, found, facts, resume=start.resume)
    if found is not None and not afresh:
        if not (start.resume or start.again):
            raise OutputExists(
                f"{store.place}: holds a run of campaign {campaign.name!r}. Continue it with --resume, give the "
                "campaign another name, or remove the run's directory to start afresh.",
                name=campaign.name,
            )
        refuse_changes(found, facts, free=FREE_KEYS - {"budget"} if store.holdout_opened() else FREE_KEYS)
        _refuse_other_models(run, services)
    elif campaign.warm_start:
        facts = replace(facts, elites=elites_to_rows(_elites(run, services)))
    if campaign.store is None:
        store.make_folder()
    store.take_over(facts, now=services.now(), afresh=afresh, again=start.again)
    start.directory.root.mkdir(parents=True, exist_ok=True)
    remember(campaign, start.directory, models=_beside(start, services, new=found is None or afresh))
    if afresh:
        forget_told(start.directory.root)
    return store.rows(schema.CAMPAIGNS, name=campaign.name)[0]


def _beside(start: Start, services: Services, *, new: bool) -> Models:
    """What lies beside the weights of the run's models: as was noted when it began, if it was."""
    noted = {} if new else models_noted(start.directory)
    return noted or ({} if services.beside is None else services.beside())


def _refuse_other_models(run: Run, services: Services) -> None:
    """Raise InputsChanged where the models have changed: recipe hashes go over the content of what they merge.

    The baselines name every parent; a campaign without them is told from its first candidates.
    """
    rows = run.store.rows(schema.CANDIDATES)
    baselines = [row for row in rows if row["origin"] == "baseline"]
    first = [row for row in rows if row["origin"] != "baseline"][:CHECKED]
    changed = [
        row["label"]
        for row in (*baselines, *first)
        if not is_impossible(row["recipe_hash"]) and row["recipe_hash"] not in services.hashes(row["recipe"])
    ]
    if changed:
        rest = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        raise InputsChanged(
            f"campaign {run.campaign.name!r} cannot be resumed: its models have changed. Merged today, these would be "
            f"others than were scored: {', '.join(changed[:NAMED])}{rest}. Restore the files of base and sources, or "
            "start a campaign of another name.",
            changed=changed,
        )


def _begins_anew(store: Store, found: Row, facts: CampaignFacts, *, resume: bool) -> bool:
    """Whether there is nothing to continue: nothing was ever scored, and nobody asked to go on with the very same."""
    if store.scored():
        return False
    lost = bool(store.rows(schema.ASSESSMENTS, state="lost"))  # by what has been mended since, it is hoped
    return not resume or lost or bool(changes(found, facts, free=FREE_KEYS))


def _elites(run: Run, services: Services) -> Elites:
    """What the search starts from. A store of its own, a new file, holds no earlier campaign to name."""
    url = None if run.campaign.store is None else store_url(run.campaign.store, default=run.directory.database)
    return read_elites(run.campaign, run.space, run.baselines, url=url, hashes_of=services.hashes)


def _note_items(store: Store, pools: Pools, *, eval_key: str) -> None:
    """Write down once which items belong to which split and task, and under which keys scores are shared.

    The keys of a run made by another version may be others, for the same items under the same settings (their digests
    were compared): its scores move to the present ones, and its evaluation key is the present one.
    """
    noted = {row["item"]: row["score_key"] for row in store.rows(schema.ITEMS)}
    if noted:
        changed = {item: (old, new) for item, old in noted.items() if (new := pools.score_key_of[item]) != old}
        with store.transaction() as transaction:
            transaction.rekey(changed)
            transaction.change(schema.CAMPAIGNS, {"eval_key": eval_key})
        return
    with store.transaction() as transaction:
        for split in SPLITS:
            rows = [
                {"item": item, "split": split, "task": pools.task_of[item], "score_key": pools.score_key_of[item]}
                for item in pools.all(split)
            ]
            transaction.add(schema.ITEMS, rows)


def items_digest(inventory: Inventory) -> str:
    """SHA-256 over keys, tasks, strata and contents of all items, in order."""
    rows = [[split, i.key, i.task, i.stratum, i.content] for split in SPLITS for i in inventory.items[split]]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def check_budget(campaign: Campaign, baselines: int, *, population: int, pool: Sequence[int] = ()) -> None:
    """Raise CampaignError where the budget does not reach beyond the first cohort after the baselines.

    `pool`: search items of every task; before they are known, one of each is counted, for there may be no more.
    """
    first = baselines + campaign.space.stages[0].sobol
    if campaign.budget.gpu_hours is not None and not devices(campaign):
        raise CampaignError(
            f"{campaign.origin}: budget.gpu_hours: the evaluator runs on {campaign.evaluator.device}: give hours"
        )
    pool = pool or [1] * len(campaign.tasks)
    items = first * window_items(campaign.items.window_size(0), pool)
    items += population * window_items(campaign.items.window_size(items), pool)
    for name, got, needed in (
        ("items", campaign.budget.items, items),
        ("candidates", campaign.budget.candidates, first + population),
    ):
        if got is not None and got < needed:
            raise CampaignError(
                f"{campaign.origin}: budget.{name}: got {got}, at least {needed} needed for {baselines} baselines, "
                f"{campaign.space.stages[0].sobol} Sobol points and one population of {population}",
                got=got,
                needed=needed,
            )
