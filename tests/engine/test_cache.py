"""The ragged cache: where keys land, what a row sees, and rows that leave."""

import torch

from tests.tiny import random_tensor, tiny_config
from trine.engine.cache import RaggedCache

LENGTHS = [2, 4, 1]


def filled_cache() -> tuple[RaggedCache, torch.Tensor]:
    cache = RaggedCache(tiny_config("qwen3", layers=1), 3, 8, torch.float32, torch.device("cpu"))
    prompt = random_tensor(3, 2, 4, 16)
    cache.extend(0, prompt, -prompt)
    cache.begin_decoding(torch.tensor(LENGTHS))
    return cache, prompt


def test_a_new_key_lands_at_each_rows_own_length_over_the_padding() -> None:
    cache, prompt = filled_cache()
    new = random_tensor(3, 2, 1, 16, seed=1)
    keys, values = cache.extend(0, new, -new)
    for row, length in enumerate(LENGTHS):
        assert torch.equal(keys[row, :, :length], prompt[row, :, :length])
        assert torch.equal(keys[row, :, length], new[row, :, 0])
        assert torch.equal(values[row, :, length], -new[row, :, 0])


def test_a_row_sees_what_it_has_filled_and_the_slot_it_writes_next() -> None:
    cache, _ = filled_cache()
    assert (cache.bias(torch.float32)[:, 0] == 0).sum(1).tolist() == [3, 5, 2]
    cache.advance()
    assert (cache.bias(torch.float32)[:, 0] == 0).sum(1).tolist() == [4, 6, 3]


def test_rows_that_stay_keep_their_keys_and_lengths() -> None:
    cache, prompt = filled_cache()
    cache.keep(torch.tensor([0, 2]))
    assert cache.lengths.tolist() == [2, 1]
    assert cache.longest == 2
    assert torch.equal(cache.keys[0][1, :, :1], prompt[2, :, :1])
