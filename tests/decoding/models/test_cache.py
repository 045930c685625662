"""The store of keys and values: what it shows of the rows that take part."""

import pytest
import torch

from wheels.decoding.models.cache import PAGE, CacheWrite, GatherBuffer, cache_argument

ROWS, CAPACITY = 5, 4 * PAGE


def store_of(heads: int, width: int = 3) -> torch.Tensor:
    return torch.randn(ROWS, heads, CAPACITY, width, generator=torch.Generator().manual_seed(heads))


@pytest.mark.parametrize("visible", [1, PAGE - 1, PAGE, PAGE + 1, CAPACITY])
def test_what_is_gathered_are_the_visible_positions_of_the_rows(visible):
    rows_R, store_BHLE = torch.tensor([4, 0, 3]), store_of(2)
    write = CacheWrite(rows_R, torch.zeros(3, 1, dtype=torch.long), visible)
    assert GatherBuffer().gather(store_BHLE, write).equal(store_BHLE[rows_R][:, :, :visible])


def test_the_layers_of_a_pass_may_have_heads_of_other_numbers():
    rows_R, buffer = torch.tensor([1, 3]), GatherBuffer()
    write = CacheWrite(rows_R, torch.zeros(2, 1, dtype=torch.long), 20)
    for heads in (2, 4, 1):
        store_BHLE = store_of(heads)
        assert buffer.gather(store_BHLE, write).equal(store_BHLE[rows_R][:, :, :20])


def test_room_is_used_again():
    buffer, rows_R = GatherBuffer(), torch.tensor([1, 3])
    write = CacheWrite(rows_R, torch.zeros(2, 1, dtype=torch.long), 20)
    first = buffer.gather(store_of(2), write)
    second = buffer.gather(store_of(2) + 1, write)
    assert first.data_ptr() == second.data_ptr() and first.equal(second)


def test_a_cache_goes_by_the_name_that_the_first_forward_has():
    """`cache` since transformers 5.24, `past_key_values` in older code, whatever a subclass passes on."""

    class Today(torch.nn.Module):
        def forward(self, input_ids=None, cache=None, **kwargs): ...

    class PassesOn(Today):
        def forward(self, *args, **kwargs): ...

    class Before(Today):
        def forward(self, input_ids=None, past_key_values=None, **kwargs): ...

    assert [cache_argument(each) for each in (Today, PassesOn, Before)] == ["cache", "cache", "past_key_values"]
