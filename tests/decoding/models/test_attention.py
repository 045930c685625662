"""Attention per row against the library, and when it is faster than attention as a batch."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.decoding.models.test_families import (
    EACH,
    MODELS,
    SEQ2SEQ_EACH,
    TOLERANCE,
    build,
    worst_error,
)
from wheels.decoding.models import attention, fast
from wheels.decoding.models.attention import (
    AttentionBias,
    RowView,
    attend_per_row_is_faster,
    source_mask,
)
from wheels.decoding.models.cache import CacheWrite
from wheels.decoding.models.packing import Packing
from wheels.decoding.models.runner import Runner


@pytest.fixture
def per_row(monkeypatch):
    """Let rows that read different amounts attend per row, small as they are; return the views of each."""
    counted: list[RowView] = []
    attend_row = attention._attend_row

    def counting(query_KHE, keys_BGLE, values_BGLE, view, scale):
        counted.append(view)
        return attend_row(query_KHE, keys_BGLE, values_BGLE, view, scale)

    monkeypatch.setattr(attention, "PER_ROW_LEAST", dict.fromkeys(attention.PER_ROW_LEAST, 0))
    monkeypatch.setattr(attention, "_attend_row", counting)
    return counted


@pytest.mark.parametrize("name", MODELS)
def test_attention_per_row_equals_the_librarys(name, per_row):
    assert worst_error(build(name)) < TOLERANCE
    assert {view.count for view in per_row} > {1, 2, 3} and {view.row for view in per_row} == {0, 1, 2, 3}


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_in_bfloat16_they_are_off_by_rounding_alone(name, per_row):
    assert worst_error(build(name).bfloat16()) < 4e-2
    assert per_row


@pytest.mark.parametrize("name", ["llama", "t5-plain", "bart", "gpt2"])
def test_small_rows_attend_as_a_batch(name, monkeypatch):
    def refused(*args):
        raise AssertionError("a call for each row costs more than it saves")

    monkeypatch.setattr(attention, "_attend_row", refused)
    worst_error(build(name))


def longer(view: RowView) -> RowView:
    """A mistake: a position too many is seen, or one too few where there is a mask."""
    return replace(view, length=view.length + 1) if view.mask is None else replace(view, mask=None)


def of_another(view: RowView) -> RowView:
    """A mistake: the row beside it is read."""
    return replace(view, row=view.row ^ 1)


def mistaken(
    right: Callable[..., AttentionBias], mistake: Callable[[RowView], RowView]
) -> Callable[..., AttentionBias]:
    def wrong(*args: object) -> AttentionBias:
        seen = right(*args)
        return [mistake(view) for view in seen] if isinstance(seen, list) else seen

    return wrong


@pytest.mark.parametrize("mistake", [longer, of_another])
@pytest.mark.parametrize("name", EACH)
def test_a_wrong_view_of_a_text_is_seen(name, mistake, per_row):
    """The negative control."""

    def tamper(runner: Runner) -> None:
        made: Any = runner.backend
        runner.backend = replace(made, bias=mistaken(made.bias, mistake))

    assert worst_error(build(name), tamper) > 100 * TOLERANCE


@pytest.mark.parametrize("mistake", [longer, of_another])
@pytest.mark.parametrize("name", SEQ2SEQ_EACH)
def test_a_wrong_view_of_a_source_is_seen(name, mistake, per_row, monkeypatch):
    """The negative control of the sources."""
    monkeypatch.setattr(fast, "source_mask", mistaken(source_mask, mistake))
    assert worst_error(build(name)) > 100 * TOLERANCE


def write_of(rows: list[int] | None, visible: int, device: str = "cpu") -> CacheWrite:
    positions_RK = torch.zeros(2, 1, dtype=torch.long, device=device)
    return CacheWrite(None if rows is None else torch.tensor(rows), positions_RK, visible)


@pytest.mark.parametrize(
    ("write", "counts", "size", "source", "pays"),
    [
        (write_of([0, 3], 1000), None, 1024, 0, False),  # they read as much as each other
        (write_of(None, 128), [2, 8], 256, 0, True),  # nothing to copy, but 8 tokens wide
        (write_of(None, 128), [2, 7], 256, 0, False),
        (write_of([0, 3], 128), [1, 4], 256, 0, True),  # 4 wide, and keys and values to copy
        (write_of([0, 3], 127), [1, 4], 256, 0, False),
        (write_of([0, 3], 16), [1, 4], 256, 240, True),  # as many positions in two calls
        (write_of([0, 3], 16), [1, 4], 256, 238, False),
        (write_of([0, 3], 1000, "meta"), [1, 4], 1024, 0, False),  # not on a device where calls are dear
    ],
)
def test_per_row_pays_where_there_is_much_to_copy_or_pad(write, counts, size, source, pays):
    packing = None if counts is None else Packing.of(counts, torch.device("cpu"))
    assert attend_per_row_is_faster(write, packing, size, torch.float32, source) is pays
    assert attend_per_row_is_faster(write, packing, 4 * size, torch.bfloat16, source) is pays
    assert not attend_per_row_is_faster(write, packing, size, torch.bfloat16, source)
    assert not attend_per_row_is_faster(write, packing, 4 * size, torch.float16, source)  # not measured
