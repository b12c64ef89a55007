"""The flags of `merge` and `plan`, in groups: ours, and every one of mergekit-yaml's.

`-` and `_` mean the same in a flag (`--trust_remote_code`), and mergekit's `--no-...` forms are there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from cluster.placement import Request
from engine.errors import InputError

if TYPE_CHECKING:
    from engine.device import DeviceChoice

_MERGEKIT = "mergekit-yaml's flags"
_RAY = "On Ray"
_SELECTOR = re.compile(r"([\w./-]+)=(!?(?:in\([\w., -]+\)|[\w.-]+))", re.ASCII)
_FLEET = "On many nodes"


def _mergekit(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=_MERGEKIT, **{"show_default": False} | more)


def _moot(name: str, why: str) -> Any:
    return typer.Option(name, help=why, hidden=True, show_default=False)


@dataclass(frozen=True)
class Allowed:
    """What may pass, and where sources come from."""

    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="Let parameters pass that no method knows.")
    ] = False
    allow_crimes: Annotated[
        bool,
        _mergekit("--allow-crimes/--no-allow-crimes", help="Let models of different architectures pass, if they fit."),
    ] = False
    trust_remote_code: Annotated[
        bool,
        _mergekit(
            "--trust-remote-code/--no-trust-remote-code",
            help="Copy the code that config.json's auto_map names. It is never run here.",
        ),
    ] = False
    transformers_cache: Annotated[
        Path | None,
        _mergekit("--transformers-cache", help="Where models from the Hub are kept, instead of HF_HUB_CACHE."),
    ] = None
    stream: Annotated[
        bool, typer.Option("--stream", help="Read models on the Hub by ranges, instead of downloading them.")
    ] = False
    random_seed: Annotated[int | None, _mergekit("--random-seed", help="Overrides the recipe's seed.")] = None


@dataclass(frozen=True)
class Written:
    """What is written, and how it is cut."""

    out_shard_size: Annotated[
        str,
        _mergekit(
            "--out-shard-size",
            help="Largest output file: 500MiB or a number are bytes; 1B, 500M parameters. Default 5GB, at a URL 1GiB.",
        ),
    ] = ""
    intermediate_dir: Annotated[
        Path | None, typer.Option("-I", "--intermediate-dir", help="Where stages are made; default OUT.stages.")
    ] = None
    copy_tokenizer: Annotated[
        bool,
        _mergekit("--copy-tokenizer/--no-copy-tokenizer", help="Copy the tokenizer, if the recipe chooses none."),
    ] = True
    write_model_card: Annotated[
        bool, _mergekit("--write-model-card/--no-write-model-card", help="Write README.md and mergekit_config.yml.")
    ] = True


@dataclass(frozen=True)
class Machine:
    """What the merge may use of this machine."""

    memory: Annotated[
        str, typer.Option(help="What may be in flight, e.g. 512MiB; default a quarter of the machine.")
    ] = ""
    threads: Annotated[
        int, typer.Option("--threads", "-j", "--num-threads", min=0, help="Threads; 0 for all processors.")
    ] = 0
    tile_size: Annotated[str, typer.Option(help="Bytes of output per unit of work; never changes the result.")] = (
        "64MiB"
    )
    device: Annotated[
        str | None, _mergekit("--device", help="cpu, cuda, or auto: a GPU where there is one. Default cpu.")
    ] = None
    cuda: Annotated[bool, _mergekit("--cuda/--no-cuda", help="Like --device cuda.")] = False
    gpu_rich: Annotated[bool, _mergekit("--gpu-rich", help="Like --device cuda.")] = False

    def chosen_device(self) -> DeviceChoice:
        """The device asked for; --device speaks louder than --cuda, as in mergekit."""
        from engine.device import DEVICE_CHOICES
        from engine.errors import did_you_mean

        wanted = self.device or ("cuda" if self.cuda or self.gpu_rich else "cpu")
        for choice in DEVICE_CHOICES:
            if wanted == choice:
                return choice
        raise InputError(f"--device: got {wanted!r}; {did_you_mean(wanted, DEVICE_CHOICES)}")


def _ray(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=_RAY, **more)


@dataclass(frozen=True)
class OnRay:
    """Whether a merge runs on Ray, and what it asks of the cluster."""

    address: Annotated[
        str | None, _ray("--address", help="local | auto | HOST:PORT: run on Ray; default in this process.")
    ] = None
    workers: Annotated[
        int | None,
        _ray("--workers", min=1, help="Most workers in all; default one per node, also on nodes that join."),
    ] = None
    cpus_per_worker: Annotated[
        float | None, _ray("--cpus-per-worker", help="Processors of each, as many workers as fit; default all.")
    ] = None
    gpus_per_worker: Annotated[
        float | None, _ray("--gpus-per-worker", help="GPUs of each; default 1 with --device cuda.")
    ] = None
    worker_label: Annotated[
        list[str] | None,
        _ray("--worker-label", metavar="KEY=VALUE", help="Only on nodes with this Ray label; may be repeated."),
    ] = None
    metrics_port: Annotated[
        int | None, _ray("--metrics-port", min=1, max=65535, help="Serve Prometheus metrics there meanwhile.")
    ] = None

    def request(self) -> Request:
        """What is asked of the cluster. InputError where it is no request, or there is no cluster to ask."""
        for field in fields(OnRay):
            if self.address is None and getattr(self, field.name) is not None:
                flag = field.name.replace("_", "-")
                raise InputError(f"--{flag}: is for a run on Ray; give --address local, auto or HOST:PORT too.")
        for flag, size in (("cpus", self.cpus_per_worker), ("gpus", self.gpus_per_worker)):
            if size is not None and not 0 < size < math.inf:
                raise InputError(f"--{flag}-per-worker: got {size:g}, a number above 0 expected.")
        labels = dict(_label(text) for text in self.worker_label or ())
        return Request(self.workers, self.cpus_per_worker, self.gpus_per_worker or 0.0, labels)


def _label(text: str) -> tuple[str, str]:
    match = _SELECTOR.fullmatch(text)
    if match is None:
        raise InputError(
            f"--worker-label: got {text!r}, want KEY=VALUE, KEY=!VALUE, KEY=in(A,B) or KEY=!in(A,B), as Ray's labels."
        )
    return match[1], match[2]


@dataclass(frozen=True)
class Run(OnRay):
    """How a merge runs; its plan checks these."""

    allow_nan: Annotated[bool, typer.Option("--allow-nan", help="Publish NaN and Inf, if there are any.")] = False
    definition: Annotated[bool, typer.Option("--definition", help="Use the torch definitions (slow).")] = False
    digest: Annotated[bool, typer.Option("--digest", help="Also record the content digests of the sources.")] = False


@dataclass(frozen=True)
class Look(Run):
    """A plan's flags: the merge's, so that its line can be given as it is, a look at the data, and nodes to foresee."""

    scan: Annotated[bool, typer.Option("--scan", help="Also read all data and count NaN and Inf.")] = False
    nodes: Annotated[
        int | None,
        typer.Option(
            min=1, help="Also foresee the merge on so many nodes; --memory is each one's.", rich_help_panel=_FLEET
        ),
    ] = None
    cpus_per_node: Annotated[
        int | None, typer.Option(min=1, help="Processors of a node; default this machine's.", rich_help_panel=_FLEET)
    ] = None
    disk_gbps: Annotated[
        float | None,
        typer.Option(help="Gbit/s (8 are 1 GB/s) of a node's storage, reading and writing.", rich_help_panel=_FLEET),
    ] = None
    net_gbps: Annotated[
        float | None,
        typer.Option(help="Gbit/s of a node's link, each way, where data passes one.", rich_help_panel=_FLEET),
    ] = None


@dataclass(frozen=True)
class Talk:
    """What is printed."""

    verbose: Annotated[int, typer.Option("-v", "--verbose", count=True, help="Say more; -vv says every tile.")] = 0
    quiet: Annotated[
        bool, typer.Option("--quiet/--no-quiet", "-q", help="No progress bar, no warnings.", show_default=False)
    ] = False
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of text.")] = False


@dataclass(frozen=True)
class Moot:
    """Flags of mergekit-yaml without a meaning here: their help texts say why, printed when they are given."""

    lazy_unpickle: Annotated[
        bool | None, _moot("--lazy-unpickle/--no-lazy-unpickle", "tensors are read piece by piece anyway")
    ] = None
    low_cpu_memory: Annotated[
        bool | None, _moot("--low-cpu-memory/--no-low-cpu-memory", "--memory bounds what is held at a time")
    ] = None
    read_to_gpu: Annotated[
        bool | None, _moot("--read-to-gpu/--no-read-to-gpu", "with --device cuda, pieces go straight to the GPU")
    ] = None
    multi_gpu: Annotated[
        bool | None, _moot("--multi-gpu/--no-multi-gpu", "a process uses one GPU; several take --address")
    ] = None
    clone_tensors: Annotated[
        bool | None, _moot("--clone-tensors/--no-clone-tensors", "no two output tensors share memory")
    ] = None
    async_write: Annotated[
        bool | None, _moot("--async-write/--no-async-write", "reading, arithmetic and writing overlap anyway")
    ] = None
    write_threads: Annotated[int | None, _moot("--write-threads", "every thread writes; --threads sets how many")] = (
        None
    )
    lora_merge_cache: Annotated[
        str | None, _moot("--lora-merge-cache", "adapters are applied while reading, without a copy on disk")
    ] = None
    lora_merge_dtype: Annotated[
        str | None, _moot("--lora-merge-dtype", "adapters are applied in float32 and rounded once")
    ] = None
    safe_serialization: Annotated[
        bool | None, _moot("--safe-serialization/--no-safe-serialization", "safetensors is the only format written")
    ] = None
    unsafe_truncate_embeddings: Annotated[
        bool | None,
        _moot(
            "--unsafe-truncate-embeddings/--no-unsafe-truncate-embeddings",
            "no row of an embedding is thrown away; docs/recipes.md says what happens to different heights",
        ),
    ] = None

    def explanations(self) -> Iterator[str]:
        """One line for each of these flags that was given. InputError where one asks for what will not be done."""
        if self.safe_serialization is False:
            raise InputError(
                "--no-safe-serialization: pickled weights are not written: they can run code. Leave it out."
            )
        if self.unsafe_truncate_embeddings:
            raise InputError("--unsafe-truncate-embeddings: rows of embeddings are not thrown away. Leave it out.")
        hints = get_type_hints(Moot, include_extras=True)
        for field in fields(Moot):
            if getattr(self, field.name) is not None:
                (option,) = hints[field.name].__metadata__
                yield f"--{field.name.replace('_', '-')} has no effect: {option.help}."


@dataclass(frozen=True)
class How(Moot, Machine, Written, Allowed):
    """All flags that a merge and its plan share."""


@dataclass(frozen=True)
class Begin:
    """How a campaign's run begins: anew, where it stopped, or as a fork of another one."""

    resume: Annotated[bool, typer.Option("--resume", help="Continue the run that is there.")] = False
    or_start: Annotated[
        bool, typer.Option("--or-start", help="With --resume: start it where there is no run yet, as a new pod does.")
    ] = False
    plan: Annotated[bool, typer.Option("--plan", help="Only say what it will take; nothing is run.")] = False
    fork: Annotated[str | None, typer.Option(help="Go on under this name, from the rows of the run there is.")] = None
    at: Annotated[int | None, typer.Option(help="With --fork: the last candidate to take over.", min=0)] = None
    allow_public_test_sets: Annotated[
        bool, typer.Option("--allow-public-test-sets", help="Let the search use public test sets; the verdict tells.")
    ] = False
