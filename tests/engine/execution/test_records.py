"""What a journal says of finished tiles is believed for whole tiles of any size, and only where the bytes are there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine import digest
from engine.execution.records import Recorded, facts_record, tile_record
from engine.methods import METHODS
from engine.models.views import View
from engine.numerics import BLOCK
from engine.planning.plan import OutputFile, OutputTensor, Plan, Tile
from engine.recipes.model_ref import ModelRef

SIZES = [2 * BLOCK + 5, 1, 0, 5 * BLOCK]
FILE = "model.safetensors"


def plan(tile_blocks: int) -> Plan:
    """Copies of bfloat16 tensors, one after the other in a file without a header."""
    view, offset, tensors = View(0, "x", "BF16", "BF16"), 0, []
    for number, size in enumerate(SIZES):
        tensors.append(OutputTensor(f"t{number}", "BF16", (size,), 0, offset, (view,), None, "BF16", None, size))
        offset += 2 * size
    ref = ModelRef("base")
    files = (OutputFile(FILE, b"", offset),)
    tiles = tile_blocks * BLOCK * 2
    return Plan(METHODS["passthrough"], (ref,), tuple(tensors), files, {}, {}, ref, ref, tile_bytes=tiles)


def zeros(made: Plan, tile: Tile) -> list[bytes]:
    """The digests of a tile's blocks where all data are zeros."""
    size, first = made.tensors[tile.tensor].elements, tile.first
    counts = [min(BLOCK, size - number * BLOCK) for number in range(first, first + tile.count)]
    return [digest.of_block(memoryview(bytes(2 * count))) for count in counts]


def blocks_of(tile: Tile) -> set[tuple[int, int]]:
    return {(tile.tensor, number) for number in range(tile.first, tile.first + tile.count)}


@given(before=st.integers(1, 6), now=st.integers(1, 6), data=st.data())
def test_tiles_of_another_size_are_done_where_all_their_blocks_were(before: int, now: int, data: st.DataObject) -> None:
    old, new = plan(before), plan(now)
    finished = [tile for tile in old.tiles if data.draw(st.booleans())]
    recorded = Recorded(new, [tile_record(old.tensors[tile.tensor], tile, zeros(old, tile)) for tile in finished])
    there = {block for tile in finished for block in blocks_of(tile)}
    for tile in new.tiles:
        if tile.count:
            assert recorded.blocks(tile) == (zeros(new, tile) if blocks_of(tile) <= there else None)


def test_a_tile_whose_bytes_were_lost_is_not_done(tmp_path: Path) -> None:
    made = plan(1)
    data = bytearray(made.files[0].nbytes)
    data[2 * BLOCK] = 1  # in the second block of the first tensor
    (tmp_path / FILE).write_bytes(data)
    recorded = Recorded(made, [tile_record(made.tensors[t.tensor], t, zeros(made, t)) for t in made.tiles])
    done = recorded.verified(tmp_path, threads=2)
    assert set(range(len(made.tiles))) - done.keys() == {1}
    assert all(done[tile.number] == zeros(made, tile) for tile in made.tiles if tile.number != 1)


def test_a_file_that_was_cut_short_loses_what_lay_there(tmp_path: Path) -> None:
    made = plan(8)
    (tmp_path / FILE).write_bytes(bytes(made.files[0].nbytes - 1))
    recorded = Recorded(made, [tile_record(made.tensors[t.tensor], t, zeros(made, t)) for t in made.tiles])
    assert 3 not in recorded.verified(tmp_path, threads=1)


def test_facts_come_back_bit_for_bit() -> None:
    facts = {"a": np.array([[0.1, -0.0]], np.float64), "b": np.array(7, np.int64)}
    found = Recorded(plan(1), [facts_record(plan(1).tensors[1], facts)]).facts
    assert list(found) == [1]
    for name, value in facts.items():
        assert found[1][name].dtype == value.dtype
        assert found[1][name].tobytes() == value.tobytes()
        assert found[1][name].shape == value.shape


def test_of_two_records_for_a_block_the_later_one_counts() -> None:
    made = plan(1)
    wrong = [tile_record(made.tensors[0], made.tiles[0], [b"x" * 32])]
    right = [tile_record(made.tensors[0], made.tiles[0], zeros(made, made.tiles[0]))]
    assert Recorded(made, wrong + right).blocks(made.tiles[0]) == zeros(made, made.tiles[0])
    assert Recorded(replace(made), right + wrong).blocks(made.tiles[0]) == [b"x" * 32]
