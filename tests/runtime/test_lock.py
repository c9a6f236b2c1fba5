"""One process at a time in a folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from trine.runtime.errors import TrineError
from trine.runtime.lock import folder_lock

HOLD = "import sys, time; from pathlib import Path; from trine.runtime.lock import folder_lock\n" \
       "with folder_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"  # fmt: skip


def test_a_second_process_is_told_folder_and_process(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(TrineError, match=f"{tmp_path} is in use by process {holder.pid}"), folder_lock(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
    with folder_lock(tmp_path):
        pass  # the lock of a killed process is gone


def test_one_that_waits_has_the_lock_when_the_other_is_done(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD.replace("60", "0.3"), str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    with folder_lock(tmp_path, wait=True):
        assert holder.wait() == 0


def test_the_lock_is_free_again_after_use_and_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), folder_lock(tmp_path):
        raise ValueError("inside")
    with folder_lock(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrineError, match=r"cannot write .*file/run"), folder_lock(tmp_path / "file" / "run"):
        pass
