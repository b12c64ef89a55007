"""vLLM as the live model, filled by its weight-transfer protocol. UNTESTED: run against a stand-in only, never on vLLM.

    recipe ─ plan ─ execute, a layer at a time → send_weights → the engine's weights → lm-eval's vLLM class → scores

What is used of vLLM is what docs/training/weight_transfer of its repository says (read at 0.32): an LLM made with
`weight_transfer_config`; a `WeightSource` of HF names whose `metadata()` and iteration agree; a client of four calls,
through which the trainer's engine drives one round:

    init_weight_transfer_engine (once)   start_weight_update   update_weights, once or more   finish_weight_update

The round ends with `weight_version` = the recipe's hash. A score counts only if the engine reports that version before
the block and after it. After a round the prefix cache is emptied: its entries belong to the weights before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from engine import digest
from engine.errors import CampaignError, EvaluationError, MergefleetError
from engine.execution.binding import TORCH_DTYPES
from engine.execution.execute import Work, execute
from engine.execution.kept_facts import KeptFacts
from engine.execution.known_facts import KnownFacts
from engine.models.tokenizer import write_small_files
from search.evaluators.contract import Subject
from search.evaluators.entries import EvaluatorEntry, TaskEntry
from search.evaluators.plans import Planned, Plans

if TYPE_CHECKING:
    from torch import Tensor

    from engine.methods.contract import Array
    from engine.planning.plan import OutputTensor, Plan


class Llm(Protocol):
    """The calls of vllm.LLM that are used."""

    def init_weight_transfer_engine(self, request: dict[str, Any]) -> None: ...
    def start_weight_update(self) -> None: ...
    def update_weights(self, request: dict[str, Any]) -> None: ...
    def finish_weight_update(self, weight_version: str | None = None) -> None: ...
    def get_weight_version(self) -> str: ...
    def reset_prefix_cache(self) -> bool: ...


@dataclass(frozen=True)
class Meta:
    """vLLM's ParamMeta."""

    name: str
    dtype: Any
    shape: tuple[int, ...]


class Merged:
    """vLLM's WeightSource over one candidate at a time: its tensors are merged while they are iterated."""

    def __init__(self, plans: Plans, threads: int) -> None:
        self._plans, self._threads = plans, threads
        self._known = KnownFacts(kept=KeptFacts())
        self.plan: Plan | None = None
        self.digests: dict[str, str] = {}

    def metadata(self) -> list[Meta]:
        """Names, formats and shapes, in the order of iteration."""
        import torch

        plan = self._current()
        tensors = [plan.tensors[index] for group in layers(plan) for index in group]
        return [Meta(tensor.name, getattr(torch, TORCH_DTYPES[tensor.dtype]), tensor.shape) for tensor in tensors]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Name and values, finished, a layer in memory at a time."""
        plan, self.digests = self._current(), {}
        for group in layers(plan):
            sink, chosen = Buffers(), set(group)
            work = Work(self._threads, tensors=chosen, known=self._known)
            self.digests |= execute(plan, self._plans.checkpoints, sink, work=work).tensor_digests(plan, chosen)
            for index in group:
                yield plan.tensors[index].name, sink.tensor(index, plan.tensors[index])
        self._known.keep()

    def _current(self) -> Plan:
        assert self.plan is not None
        return self.plan


class Buffers:
    """A sink (engine.execution.sinks) in memory."""

    def __init__(self) -> None:
        self._blocks: dict[int, dict[int, bytes]] = {}

    def write(self, index: int, tensor: OutputTensor, block: int, data: Array) -> None:
        """See Sink; blocks come in any order, from several threads."""
        self._blocks.setdefault(index, {})[block] = data.tobytes()

    def tensor(self, index: int, tensor: OutputTensor) -> Tensor:
        """A finished tensor; its blocks are given up."""
        import torch

        blocks = self._blocks.pop(index, {})
        bits = np.frombuffer(bytearray(b"".join(blocks[block] for block in sorted(blocks))), np.uint8)
        return torch.from_numpy(bits).view(getattr(torch, TORCH_DTYPES[tensor.dtype])).reshape(tensor.shape)


class Client:
    """vLLM's VLLMWeightSyncClient over an LLM of this process; a round ends with the version that stands here."""

    def __init__(self, llm: Llm) -> None:
        self._llm = llm
        self.version = ""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._llm.init_weight_transfer_engine({"init_info": init_info})

    def start_weight_update(self) -> None:
        self._llm.start_weight_update()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self._llm.update_weights({"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._llm.finish_weight_update(weight_version=weight_version or self.version)


Opened = tuple[Any, Callable[[], None]]
"""lm-eval's model, whose `.model` is the Llm, and what sends a round of weights."""
Open = Callable[[EvaluatorEntry, Path, Merged, Callable[[Llm], Client]], Opened]


@dataclass(frozen=True)
class Loaded:
    """See search.evaluators.resident.Loaded."""

    recipe_hash: str
    weights_digest: str
    plan: Plan


class VllmModel:
    """What `resident.ResidentModel` is, with vLLM's engine in its place. One configuration per campaign."""

    def __init__(self, entry: EvaluatorEntry, *, plans: Plans | None = None, open_engine: Open | None = None) -> None:
        self._entry, self._plans = entry, plans or Plans()
        self._open = open_engine or open_vllm
        self._source = Merged(self._plans, entry.threads)
        self._engine: tuple[Opened, Client, str] | None = None
        self._home = TemporaryDirectory(prefix="mergefleet-vllm-")
        self.loaded: Loaded | None = None

    @property
    def subject(self) -> Subject:
        """lm-eval's model and its tokenizer. Raises EvaluationError before the first `load`."""
        if self._engine is None:
            raise EvaluationError("no recipe has been loaded into vLLM yet")
        model = self._engine[0][0]
        return Subject(model, model.tokenizer)

    def load(self, recipe: Mapping[str, Any], *, expected_hash: str | None = None) -> Loaded:
        """Send a candidate to the engine; nothing to do if it is there already.

        Raises EvaluationError where the hash is another one here or the engine reports another version afterwards,
        ConnectionError (another attempt may do better) where the engine does not take the weights.
        """
        planned = self._plans.expected(recipe, expected_hash)
        if self.loaded is not None and self.loaded.recipe_hash == planned.recipe_hash and self.is_intact():
            return self.loaded
        self.loaded, self._source.plan = None, planned.plan
        (model, send), client = self._engine_for(planned)
        client.version = planned.recipe_hash
        try:
            send()
            emptied = model.model.reset_prefix_cache()
        except (MergefleetError, AttributeError, NameError, TypeError):  # ours, or another interface: no retry mends it
            raise
        except Exception as error:  # whatever a remote engine raises; the reason is told
            raise ConnectionError(f"vLLM did not take the candidate's weights: {error}") from error
        if emptied is False:
            raise ConnectionError("vLLM did not empty its prefix cache, which holds the weights before")
        reported = model.model.get_weight_version()
        if reported != planned.recipe_hash:
            raise EvaluationError(
                f"vLLM reports version {reported!r} after the update, {planned.recipe_hash!r} expected"
            )
        self.loaded = Loaded(planned.recipe_hash, digest.of_weights(self._source.digests), planned.plan)
        return self.loaded

    def is_intact(self) -> bool:
        """Whether the engine reports the loaded candidate's version."""
        if self.loaded is None or self._engine is None:
            return False
        return bool(self._engine[0][0].model.get_weight_version() == self.loaded.recipe_hash)

    def holds(self, recipe_hash: str) -> bool:
        """Whether that recipe was sent to the engine last."""
        return self.loaded is not None and self.loaded.recipe_hash == recipe_hash

    def blown_up(self) -> str | None:
        """The floor is not checked: the weights are in another process."""
        return None

    def close(self) -> None:
        """Let go of engine and files."""
        self._engine = self.loaded = None
        self._home.cleanup()
        self._plans.close()

    def _engine_for(self, planned: Planned) -> tuple[Opened, Client]:
        plan = planned.plan
        shape = self._plans.made_of(plan)
        if self._engine is None:
            clients: list[Client] = []
            opened = self._open(self._entry, self._folder(plan), self._source, lambda llm: _kept(clients, llm))
            self._engine = (opened, clients[0], shape)
        opened, client, known = self._engine
        if shape != known:
            raise EvaluationError(
                "the candidate has another config.json, tokenizer or chat template than the model in vLLM: use engine: "
                "hf"
            )
        return opened, client

    def _folder(self, plan: Plan) -> Path:
        """Config and tokenizer, from which vLLM makes a model without weights."""
        out, donor = Path(self._home.name), self._plans.open(plan.donor).directory
        (out / "config.json").write_text(json.dumps(dict(plan.config)), encoding="utf-8")
        tokenizer = self._plans.open(plan.tokenizer).tokenizer_directory
        write_small_files(out, tokenizer=tokenizer, donor=donor, chat_template=plan.chat_template)
        return out


def _kept(clients: list[Client], llm: Llm) -> Client:
    clients.append(Client(llm))
    return clients[0]


def open_vllm(entry: EvaluatorEntry, folder: Path, source: Merged, client_of: Callable[[Llm], Client]) -> Opened:
    """vLLM itself, on this process's GPU, weights handed over by CUDA IPC in chunks. Untested."""
    from lm_eval.models.vllm_causallms import VLLM
    from vllm.config import WeightTransferConfig
    from vllm.distributed.weight_transfer import WeightSource, WeightTransferTrainerFactory
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

    class OnDevice(WeightSource):  # type: ignore[misc]
        def metadata(self) -> list[Meta]:
            return source.metadata()

        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            for name, value in source:
                yield name, value.to(entry.device)

    model = VLLM(
        pretrained=str(folder),
        dtype=entry.dtype,
        batch_size=entry.batch_size,
        load_format="dummy",
        weight_transfer_config=WeightTransferConfig(backend="ipc"),
    )
    info = IPCTrainerInitInfo(rank=0, packed=True)
    trainer = WeightTransferTrainerFactory.trainer_init(info, client=client_of(model.model), source=OnDevice())
    return model, trainer.send_weights


def check_vllm(origin: str, tasks: tuple[TaskEntry, ...]) -> None:
    """CampaignError where vLLM is not there, or a task needs a model of this process."""
    if find_spec("vllm") is None:
        raise CampaignError(
            f"{origin}: evaluator.engine: vllm is not installed: pip install 'mergefleet[vllm]', or say engine: hf"
        )
    for task in tasks:
        if task.kind in ("python", "text"):
            raise CampaignError(f"{origin}: task {task.name!r}: is scored in a transformers model; use engine: hf")


def layers(plan: Plan) -> list[list[int]]:
    """Indices of the plan's tensors, one list per layer, and those outside of layers before all others."""
    found: dict[int, list[int]] = {}
    for index, tensor in enumerate(plan.tensors):
        found.setdefault(-1 if tensor.layer is None else tensor.layer, []).append(index)
    return [found[layer] for layer in sorted(found)]
