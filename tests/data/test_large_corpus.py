"""Two gigabytes of text become shards and rows in memory that does not know how much text there was."""

import json
import random
import sys
import time
from pathlib import Path

import psutil
import pytest

from trine.runtime.files import read_json
from trine.tokenizer.bpe import train_tokenizer

SIZE = 2_000_000_000
FILES = 20
MAX_MEMORY = 1_500_000_000

ROWS = """
import sys
from pathlib import Path
from trine.data.rows import open_sampler
from trine.data.shards import Shards

shards = Shards(Path(sys.argv[1]) / "shards")
open_sampler(shards.train, "packed", 1024, 0, shards.weights, padding=0).rows(0, 64)
"""


def write_large_corpus(folder: Path, size: int) -> list[str]:
    """Records of lines that look like code, all different; returns some of the lines."""
    random_numbers = random.Random(0)
    words = [
        "".join(random_numbers.choices("etaoinsrhdlucmfywgpbvk_", k=random_numbers.randint(2, 9))) for _ in range(3000)
    ]
    lines = ["    " * (n % 3) + " ".join(random_numbers.choices(words, k=6)) + " = (1, 2)" for n in range(20_000)]
    folder.mkdir()
    for number in range(FILES):
        written = 0
        with open(folder / f"{number}.jsonl", "w") as file:
            while written < size / FILES:
                written += file.write(json.dumps({"text": "\n".join(random_numbers.choices(lines, k=80))}) + "\n")
    return lines


def memory_of(process: psutil.Process) -> int:
    """Resident bytes of a process and all that it started."""
    total = 0
    for each in (process, *process.children(recursive=True)):
        try:
            total += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def max_memory(*arguments: object) -> int:
    """The most that a Python process and all that it started held at once."""
    process = psutil.Popen([sys.executable, *map(str, arguments)])
    largest = 0
    while process.poll() is None:
        largest = max(largest, memory_of(process))
        time.sleep(0.1)
    assert process.returncode == 0
    return largest


@pytest.mark.slow
def test_two_gigabytes_take_less_than_one_and_a_half(tmp_path: Path) -> None:
    train_tokenizer(write_large_corpus(tmp_path / "corpus", SIZE)[:5000], 4096).save(tmp_path / "tokenizer")
    making = max_memory(
        "-m", "trine", "shards", "--corpus.folders", tmp_path / "corpus", "--corpus.filters.exact_duplicates", "true",
        "--tokenizer", tmp_path / "tokenizer", "--out", tmp_path / "shards", "--hardware.threads", 2,
    )  # fmt: skip
    reading = max_memory("-c", ROWS, tmp_path / "shards")
    results = read_json(tmp_path / "shards" / "done.json")
    rate = f"{results['seconds']:.0f} s, {results['megabytes_per_second']:.1f} MB/s"
    print(f"{rate}, peak {making / 1e6:.0f} MB, {reading / 1e6:.0f} MB for rows")
    assert sum(part["bytes"] for part in results["parts"].values()) > 0.9 * SIZE
    assert max(making, reading) < MAX_MEMORY
