"""Places in a region: never two tensors in one, given back whenever the last holder goes, neighbours joined."""

import gc
import mmap
import os
from random import Random

import pytest
import torch

from trine.runtime import regions as module
from trine.runtime.allocator import release_memory
from trine.runtime.regions import MAX_BYTES, MIN_BYTES, Region, regions
from trine.runtime.working_memory import empty, empty_like

PAGE = mmap.PAGESIZE


def test_what_is_held_is_never_given_twice_and_all_comes_back() -> None:
    random, region = Random(0), Region(64 * PAGE)
    held: list[tuple[memoryview, int]] = []
    for number in range(2000):
        if held and random.random() < 0.5:
            view, mark = held.pop(random.randrange(len(held)))
            assert set(view) == {mark}
            del view
        else:
            found = region.allocate(random.randrange(1, 9 * PAGE))
            if found is not None:
                found[:] = bytes([number % 251]) * len(found)
                held.append((found, number % 251))
            del found
    assert all(set(view) == {mark} for view, mark in held)
    held.clear()
    assert region.allocate(65 * PAGE) is None
    assert len(region.allocate(64 * PAGE) or b"") == 64 * PAGE


def test_one_process_of_several_has_no_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {
        "TORCHELASTIC_RUN_ID": "x",
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert regions.__wrapped__() is None


def test_the_smallest_hole_is_taken() -> None:
    region = Region(16 * PAGE)
    places = [region.allocate(pages * PAGE) for pages in (4, 1, 2, 1)]
    places[0] = places[2] = None  # holes of 4 and 2 pages, and the rest
    small = region.allocate(2 * PAGE)
    assert region.allocate(12 * PAGE) is None
    assert small is not None and region.allocate(4 * PAGE) is not None and len(places) == 4


def test_a_tensor_and_its_views_hold_their_place() -> None:
    tensor = empty((MIN_BYTES,), torch.float32)
    address = tensor.data_ptr()
    view = tensor[5:].fill_(7)
    del tensor
    gc.collect()
    assert empty((MIN_BYTES,), torch.float32).data_ptr() != address
    assert (view == 7).all()
    del view
    assert empty((MIN_BYTES,), torch.float32).data_ptr() == address


@pytest.mark.parametrize("bytes_", [16, MIN_BYTES, MAX_BYTES + 4])
def test_tensors_are_as_torch_makes_them(bytes_: int) -> None:
    tensor = empty((2, bytes_ // 8), torch.float32)
    assert tensor.shape == (2, bytes_ // 8) and tensor.is_contiguous() and not tensor._is_view()
    assert tensor.data_ptr() % 64 == 0
    other = empty_like(tensor.bfloat16())
    assert other.dtype == torch.bfloat16 and other.shape == tensor.shape


def test_without_a_region_torch_gives_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(size: int) -> Region:
        raise OSError("no mapping")

    monkeypatch.setattr(module, "Region", refused)
    regions.cache_clear()
    assert empty((MIN_BYTES,), torch.float32).fill_(1).sum() == MIN_BYTES
    regions.cache_clear()


def test_a_process_with_regions_can_fork() -> None:
    held = empty((MIN_BYTES,), torch.float32).fill_(3)
    if (child := os.fork()) == 0:
        os._exit(int(float(held[-1])))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def test_giving_back_leaves_what_is_held() -> None:
    held, passing = empty((MIN_BYTES,), torch.float32).fill_(3), empty((MIN_BYTES,), torch.float32).fill_(4)
    del passing
    release_memory()
    assert (held == 3).all()
    assert (empty((MIN_BYTES,), torch.float32) == 0).all()  # new pages
