"""`mergefleet merge` and `mergefleet plan`: flags → engine, and what is printed."""

from __future__ import annotations

import math
import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster import output, plan_report
from cluster.flags import How, Look, Run, Talk
from cluster.forecast import Fleet, forecast
from engine.device import choose_device
from engine.errors import InputError
from engine.execution.execute import check_memory
from engine.merging import merge as merge_here
from engine.outputs.job import MergeResult, work_of
from engine.outputs.obstacles import obstacles
from engine.outputs.output import default_shard_size
from engine.planning.options import Options, default_memory
from engine.planning.stage_plans import StagePlans
from engine.recipes.keypath import KeyPath
from engine.recipes.reader import MAX_SEED
from engine.recipes.stages import Stages, load_stages, stages_directory
from engine.remote.url import parse_place


def merge(recipe: Path, out: str, *, how: How, run: Run, talk: Talk) -> None:
    """Merge, in this process or on Ray, and say what was made."""
    _begin(how, talk)
    options = _options(how, run)
    request = run.request()
    stages = _stages(recipe, how)
    quiet, title = talk.quiet or talk.json, f"merging into {parse_place(out).name}"
    if run.address is None:
        with output.byte_progress(title, quiet=quiet) as progress:
            result = merge_here(stages, out, options=options, progress=progress)
    else:
        from cluster.merge_job import merge_on_ray
        from cluster.merge_progress import watched

        with watched(title, quiet=quiet, metrics_port=run.metrics_port) as watch:
            result = merge_on_ray(stages, out, options=options, address=run.address, request=request, watch=watch)
    _print_result(result, as_json=talk.json)


def plan(recipe: Path, out: str | None, *, how: How, look: Look, talk: Talk) -> bool:
    """Say what a merge would do, stage by stage; whether a scan found NaN or Inf."""
    _begin(how, talk)
    options = _options(how, look)
    look.request()
    choose_device(options.device)
    place = None if out is None else parse_place(out)
    fleet = _fleet(look, options)
    if fleet is not None:
        options = replace(options, threads=fleet.cpus, memory_bytes=fleet.memory_bytes)
    stages = _stages(recipe, how)
    if place is not None and not stages.names:  # stages are made in a directory
        options = replace(options, shard_size=options.shard_size or default_shard_size(place))
    directory = options.intermediate_dir or stages_directory(place if isinstance(place, Path) else Path("OUT"))
    found = False
    with closing(StagePlans(stages, directory, options)) as planned:
        for part in planned.parts:
            check_memory(part.plan, work_of(options))
        shown = [plan_report.facts(part, threads=options.threads) for part in planned.parts]
        for part, facts in zip(planned.parts, shown, strict=True):
            if fleet is not None:
                facts["fleet"] = forecast(part.plan, fleet)
        if place is not None:
            shown[-1]["obstacles"] = obstacles(place, planned)
        if look.scan:
            found = _scan(planned, shown, how=how, talk=talk)
    if talk.json:
        output.print_json({**shown[-1], "stages": shown[:-1]})
    else:
        for facts in shown:
            plan_report.print_plan(facts)
    return found


def _fleet(look: Look, options: Options) -> Fleet | None:
    """The nodes that are asked about, if any."""
    given = {f"--{name.replace('_', '-')}": getattr(look, name) for name in ("cpus_per_node", "disk_gbps", "net_gbps")}
    for flag, value in given.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise InputError(f"{flag}: got {value:g}, a rate above 0 expected, in Gbit/s.")
        if value is not None and look.nodes is None:
            raise InputError(f"{flag}: is for a merge on several nodes; give --nodes too.")
    if look.nodes is None:
        return None
    cpus = look.cpus_per_node or options.threads or work_of(options).thread_count
    memory = options.memory_bytes or default_memory()
    return Fleet(look.nodes, cpus, memory, disk_gbps=look.disk_gbps, net_gbps=look.net_gbps)


def _scan(planned: StagePlans, shown: list[dict[str, Any]], *, how: How, talk: Talk) -> bool:
    """Look for NaN and Inf in the sources of every stage, and put what is found into its facts."""
    from engine.execution.scan import scan

    for part, facts in zip(planned.parts, shown, strict=True):
        with output.byte_progress("scanning", quiet=talk.quiet or talk.json) as progress:
            found = scan(part.plan, planned.checkpoints, threads=how.threads, progress=progress)
        facts["nonfinite"] = [vars(finding) for finding in found]
    return any(facts["nonfinite"] for facts in shown)


def _stages(recipe: Path, how: How) -> Stages:
    seed = how.random_seed
    if seed is not None:
        KeyPath("--random-seed").whole(seed, below=MAX_SEED)
    return load_stages(recipe).with_seed(seed)


def _options(how: How, run: Run) -> Options:
    return replace(
        options_of(how),
        arithmetic="definition" if run.definition else "kernel",
        allow_nonfinite=run.allow_nan,
        content_digests=run.digest,
    )


def options_of(how: How) -> Options:
    """What the engine calls these flags."""
    return Options(
        threads=how.threads,
        memory_bytes=output.parse_bytes(how.memory, option="--memory") if how.memory else 0,
        tile_bytes=output.parse_bytes(how.tile_size, option="--tile-size"),
        shard_size=output.parse_shard_size(how.out_shard_size, option="--out-shard-size")
        if how.out_shard_size
        else None,
        device=how.chosen_device(),
        allow_unknown=how.allow_unknown,
        stream=how.stream,
        allow_mixed=how.allow_crimes,
        copy_tokenizer=how.copy_tokenizer,
        model_card=how.write_model_card,
        carry_code=how.trust_remote_code,
        intermediate_dir=how.intermediate_dir,
    )


def _begin(how: How, talk: Talk) -> None:
    """What must stand before anything is read: who speaks, and where the Hub's files are kept."""
    output.print_log(verbose=talk.verbose, quiet=talk.quiet)
    for line in how.explanations():
        output.print_note(line, quiet=talk.quiet)
    if how.transformers_cache is not None:
        os.environ["HF_HUB_CACHE"] = str(how.transformers_cache.expanduser().absolute())


def _print_result(result: MergeResult, *, as_json: bool) -> None:
    if as_json:
        output.print_json(_facts(result))
        return
    resumed = f" ({result.resumed_tiles} of {result.tiles} tiles from an earlier run)" if result.resumed_tiles else ""
    for stage in result.stages:
        print(f"{stage.out}: {'made' if stage.made else 'was there'}, weights {stage.weights_digest[:16]}")
    print(f"{result.out}: {output.human_bytes(result.bytes_written)}, weights {result.weights_digest[:16]}{resumed}")


def _facts(result: MergeResult) -> dict[str, Any]:
    return {
        "out": str(result.out),
        "weights": result.weights_digest,
        "plan": result.plan_digest,
        "bytes_written": result.bytes_written,
        "tiles": result.tiles,
        "resumed_tiles": result.resumed_tiles,
        "nonfinite": [{"origin": o, "tensor": t, "count": c} for (o, t), c in sorted(result.nonfinite.items())],
        "warnings": list(result.warnings),
        "stages": [
            {"name": stage.name, "out": str(stage.out), "weights": stage.weights_digest, "made": stage.made}
            for stage in result.stages
        ],
    }
