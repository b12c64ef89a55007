"""The tables of a campaign store. One database may hold several campaigns (PostgreSQL); a run's SQLite file holds one.

campaigns     one row each: the file as it was read, evaluation key, epoch, verdict
epochs        every start of a coordinator: which process on which host
candidates    number, stage, origin, label, params, recipe, recipe hash; `seq` is when it was proposed
assessments   a candidate on a split; `asked` and `finished` are sequence numbers: together, in order, they are the
              events that a restart replays
events        what no other row tells: the search was ended, was reopened with a larger budget
cohorts       search candidates that share a window
items         which items belong to which split and task, and the key under which their scores are shared
item_blocks   lists of items that were scored together: their score keys, and what the campaign calls them
block_scores  (recipe hash, measure, block) → values; the measure "score" is what is searched, the others stand beside
              it; first write wins (blocks.py). All campaigns of a store share them: `campaign` says who paid
item_scores   a view of the two, for people: (recipe hash, score key, measure) → value
leases        every handing out of a work unit, and how it ended: done, failed, expired (no heartbeat), returned (the
              worker went away), outage (what it needs did not answer), lost (the coordinator ended)
ledger        every candidate that was let onto the holdout, why and when
visits        every model from outside that was (`mergefleet evaluate --split holdout`), by whom and when
wishes        what other processes ask of the running coordinator (`mergefleet stop`)
schema_version  one row: VERSION of whoever made the tables; migration.py brings older stores here
"""

from __future__ import annotations

from sqlalchemy import JSON, Column, Float, Integer, MetaData, String, Table, Text

METADATA = MetaData()
VERSION = 3
"""Goes up with every change of a table. 2 had a row per item's score, 1 no visits, 0 no version and scores by campaign
and item."""

SCHEMA_VERSION = Table("schema_version", METADATA, Column("version", Integer, primary_key=True))

CAMPAIGNS = Table(
    "campaigns",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), unique=True, nullable=False),
    Column("config", JSON, nullable=False),
    Column("eval_key", String(200), nullable=False),
    Column("items_digest", String(64), nullable=False),
    Column("layers", Integer, nullable=False),
    Column("epoch", Integer, nullable=False, default=0),
    Column("created", Float, nullable=False),
    Column("seconds", Float, nullable=False, default=0.0),
    Column("elites", JSON),  # points of earlier campaigns that the search started from (warm_start)
    Column("verdict", JSON),
)

EPOCHS = Table(
    "epochs",
    METADATA,
    Column("campaign", Integer, primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("pid", Integer, nullable=False),
    Column("started", String(40), nullable=False),  # start time of the process, as /proc tells it
    Column("host", String(300), nullable=False),  # host name and boot
    Column("at", Float, nullable=False),
)

CANDIDATES = Table(
    "candidates",
    METADATA,
    Column("campaign", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("stage", Integer, nullable=False),
    Column("origin", String(20), nullable=False),
    Column("label", Text, nullable=False),
    Column("cohort", Integer),
    Column("params", JSON, nullable=False),
    Column("recipe", JSON, nullable=False),
    Column("recipe_hash", String(64), nullable=False, index=True),
)

COHORTS = Table(
    "cohorts",
    METADATA,
    Column("campaign", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("stage", Integer, nullable=False),
    Column("capacity", Integer, nullable=False),
    Column("start", Integer, nullable=False),
    Column("size", Integer, nullable=False),
)

COHORT_FIELDS = ("number", "stage", "capacity", "start", "size")

ASSESSMENTS = Table(
    "assessments",
    METADATA,
    Column("campaign", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("split", String(10), primary_key=True),
    Column("asked", Integer, nullable=False),
    Column("finished", Integer),
    Column("state", String(10), nullable=False),  # open, scored, stopped (early), lost
    Column("score", Float),
    Column("items", Integer),  # how many items of its window a stopped one was scored on
    Column("objectives", JSON),  # one value per objective, in the units of the campaign file
    Column("violation", Float),  # how far out of the constraints' bounds; 0 or nothing: feasible
    Column("cause", Text),
)

EVENTS = Table(
    "events",
    METADATA,
    Column("campaign", Integer, primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("kind", String(20), nullable=False),  # ended, reopened, selection, tried again
    Column("reason", Text, nullable=False),
    Column("at", Float, nullable=False),
)

ITEMS = Table(
    "items",
    METADATA,
    Column("campaign", Integer, primary_key=True),
    Column("item", String(300), primary_key=True),
    Column("split", String(10), nullable=False),
    Column("task", String(200), nullable=False),
    Column("score_key", String(64), nullable=False, index=True),
)

ITEM_BLOCKS = Table(
    "item_blocks",
    METADATA,
    Column("block", String(32), primary_key=True),  # a digest of the rest
    Column("score_keys", Text, nullable=False),  # a JSON list
    Column("items", Text, nullable=False),  # a JSON list: what the campaign that scored them calls them
)

BLOCK_SCORES = Table(
    "block_scores",
    METADATA,
    Column("recipe_hash", String(64), primary_key=True),
    Column("measure", String(100), primary_key=True),
    Column("block", String(32), primary_key=True),
    Column("scores", Text, nullable=False),  # a JSON list: the measure's values, in the order of the block
    Column("campaign", Integer, nullable=False, index=True),
    Column("lease", String(60), nullable=False),
)

ITEM_SCORES = Table(
    "item_scores",
    MetaData(),  # of its own: it is no table that is made, but VIEW
    Column("recipe_hash", String(64), primary_key=True),
    Column("score_key", String(64), primary_key=True),
    Column("measure", String(100), primary_key=True),
    Column("item", String(300)),
    Column("score", Float),
    Column("campaign", Integer),
    Column("lease", String(60)),
)

VIEW = {
    "sqlite": """
CREATE VIEW item_scores AS
SELECT recipe_hash, json_extract(score_keys, '$[' || one.key || ']') AS score_key, measure,
       json_extract(items, '$[' || one.key || ']') AS item, one.value AS score, campaign, lease
FROM block_scores JOIN item_blocks USING (block) JOIN json_each(scores) AS one
""",
    "postgresql": """
CREATE VIEW item_scores AS
SELECT recipe_hash, one.score_key, measure, one.item, one.score::float8 AS score, campaign, lease
FROM block_scores JOIN item_blocks USING (block) CROSS JOIN LATERAL ROWS FROM (
    json_array_elements_text(score_keys::json), json_array_elements_text(items::json),
    json_array_elements_text(scores::json)
) AS one (score_key, item, score)
""",
}
"""`item_scores` by dialect: every item of every block a row, for reading; nothing of ours does so in a hot place."""

WISHES = Table(
    "wishes",
    METADATA,
    Column("campaign", Integer, primary_key=True),
    Column("wish", String(20), primary_key=True),  # stop
    Column("at", Float, nullable=False),
)

LEASES = Table(
    "leases",
    METADATA,
    Column("campaign", Integer, primary_key=True),
    Column("lease", String(60), primary_key=True),
    Column("candidate", Integer, nullable=False),
    Column("split", String(10), nullable=False),
    Column("block", Integer, nullable=False),
    Column("worker", String(200), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("state", String(10), nullable=False),  # running, done, failed, expired, returned, outage, lost
    Column("cause", Text),
    Column("weights_digest", String(128)),
    Column("taken", Float, nullable=False),
    Column("ended", Float),
)

LEDGER = Table(
    "ledger",
    METADATA,
    Column("campaign", Integer, primary_key=True),
    Column("candidate", Integer, primary_key=True),
    Column("reason", String(40), primary_key=True),
    Column("items", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("at", Float, nullable=False),
)

VISITS = Table(
    "visits",
    METADATA,
    Column("campaign", Integer, primary_key=True),
    Column("visit", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("who", String(300), nullable=False),  # user and host
    Column("model", Text, nullable=False),  # as it was named
    Column("weights", String(128), nullable=False),  # digest of its tensors, or its commit
    Column("items", Integer, nullable=False),
    Column("items_digest", String(64), nullable=False),  # of their keys
)
