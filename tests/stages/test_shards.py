"""A corpus is encoded once, and any number of pretraining runs read the shards."""

import shutil
import statistics
from pathlib import Path

import pytest

from tests.conftest import PLAIN_CPU, Command, pretrain_config
from tests.data.test_shard_making import contents
from tests.tiny import tiny_tokenizer
from trine.cli.main import main
from trine.config.corpus import CorpusConfig, FilterConfig
from trine.config.loading import validated
from trine.config.text import PretrainConfig, ShardsConfig
from trine.data.shards import Shards
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl
from trine.runtime.signals import Interrupted, stop_request
from trine.stages.pretraining import pretrain
from trine.stages.pretraining.shards import run, shards_fingerprint

TINY = {"family": "gpt2", "layers": 1, "width": 32, "heads": 2, "context": 64}
SHORT = {"tokens": 1024, "model": TINY}


@pytest.fixture(scope="module")
def shards_run(shared: Path, corpus: CorpusConfig, tokenizer_run: Path) -> Path:
    return run(ShardsConfig(out=shared / "shards", corpus=corpus, tokenizer=tokenizer_run, hardware=PLAIN_CPU))


def weights(run_folder: Path) -> bytes:
    return (run_folder / "model" / "model.safetensors").read_bytes()


def test_the_stage_reports_sizes_what_was_left_out_and_how_fast_it_was(shards_run: Path, corpus: CorpusConfig) -> None:
    results = read_json(shards_run / "done.json")
    [name] = results["outcomes"]
    assert results["outcomes"][name]["seen"]["documents"] == 24 and results["records"][name] == {
        "seen": 24,
        "broken": 0,
    }
    assert sum(part["documents"] for part in results["parts"].values()) == 24
    assert 1 < results["bytes_per_token"] < 8 and results["megabytes_per_second"] > 0


def test_a_run_from_shards_is_the_run_that_makes_them_itself(
    tmp_path: Path, shards_run: Path, corpus: CorpusConfig, tokenizer_run: Path
) -> None:
    own = pretrain.run(pretrain_config(tmp_path / "own", corpus, tokenizer_run, **SHORT))
    given = pretrain.run(pretrain_config(tmp_path / "given", CorpusConfig(), tokenizer_run, shards=shards_run, **SHORT))
    assert weights(own) == weights(given)
    assert not (given / "shards").exists()
    results = [read_json(folder / "done.json") for folder in (own, given)]
    assert results[0] == results[1]


def test_shards_of_another_tokenizer_are_refused(tmp_path: Path, shards_run: Path) -> None:
    tiny_tokenizer(300).save(tmp_path / "other")
    config = pretrain_config(tmp_path / "run", CorpusConfig(), tmp_path / "other", shards=shards_run, **SHORT)
    with pytest.raises(TrineError, match="were made with another tokenizer"):
        pretrain.run(config)


def test_shards_and_a_corpus_together_are_refused(tmp_path: Path) -> None:
    values = {"out": tmp_path, "tokenizer": tmp_path, "shards": tmp_path, "corpus": {"standard_library": True}}
    with pytest.raises(TrineError, match="give either shards or corpus"):
        validated(PretrainConfig, values, "here")


def test_the_command_makes_them_and_does_nothing_the_second_time(
    tmp_path: Path, corpus_folder: Path, tokenizer_run: Path, command: Command
) -> None:
    arguments = ("shards", "--corpus.folders", corpus_folder, "--tokenizer", tokenizer_run, "--out", tmp_path / "out")
    assert command(*arguments)[0] == 0
    made = (tmp_path / "out" / "done.json").stat().st_mtime_ns
    assert command(*arguments)[0] == 0
    assert (tmp_path / "out" / "done.json").stat().st_mtime_ns == made


@pytest.mark.parametrize(("packing", "dropped"), [("packed", (0, 0)), ("stream", (0, 0.02)), ("windows", (0.01, 0.5))])
def test_every_cutting_says_what_it_drops_and_pads(
    tmp_path: Path, shards_run: Path, tokenizer_run: Path, packing: str, dropped: tuple[float, float]
) -> None:
    config = pretrain_config(tmp_path, CorpusConfig(), tokenizer_run, shards=shards_run, packing=packing, **SHORT)
    results = read_json(pretrain.run(config) / "done.json")
    assert dropped[0] <= results["dropped_share"] <= dropped[1]
    assert (results["padded_share"] > 0) == (packing == "packed")
    assert 0 < results["epochs"] < 1
    trained = {"packed": 1024 * (1 - results["padded_share"]), "stream": 1024, "windows": 1024 * 63 / 64}
    assert results["tokens"] == pytest.approx(trained[packing], rel=0.1 if packing == "packed" else 0)


def test_the_training_step_does_not_wait_for_its_batch(tmp_path: Path, shards_run: Path, tokenizer_run: Path) -> None:
    """Steps of some tens of milliseconds; those of a real model take longer, and their batches no more."""
    shape = {"layers": 2, "width": 128, "heads": 2, "context": 128}
    sizes = {"model": shape, "row_tokens": 128, "batch_size": 16, "micro_batch_size": 16, "tokens": 12 * 16 * 128}
    config = pretrain_config(tmp_path, CorpusConfig(), tokenizer_run, shards=shards_run, **sizes)
    rows = read_jsonl(pretrain.run(config) / "metrics.jsonl")
    shares = [row["loader_share"] for row in rows if "loader_share" in row][1:]
    assert len(shares) == 11 and statistics.median(shares) < 0.01


def test_tables_of_rows_beside_the_shards_do_not_make_them_other_shards(
    tmp_path: Path, shards_run: Path, tokenizer_run: Path
) -> None:
    """1.1: what a run writes beside its input is not its input's content."""
    before = shards_fingerprint(Shards(shards_run / "shards"))
    for row_tokens in (32, 64):
        config = pretrain_config(
            tmp_path / str(row_tokens), CorpusConfig(), tokenizer_run, shards=shards_run, row_tokens=row_tokens, **SHORT
        )
        pretrain.run(config)
    assert shards_fingerprint(Shards(shards_run / "shards")) == before


def test_an_unfinished_encoding_is_not_thrown_away_for_another_setting(
    tmp_path: Path, corpus: CorpusConfig, tokenizer_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.4: it is refused, as for a finished one; the same command goes on."""

    def config(**changes: object) -> ShardsConfig:
        asked = {"out": tmp_path / "run", "corpus": corpus, "tokenizer": tokenizer_run, "hardware": PLAIN_CPU}
        return ShardsConfig(**(asked | changes))  # type: ignore[arg-type]

    monkeypatch.setattr(stop_request, "received", 15)
    with pytest.raises(Interrupted):
        run(config())
    monkeypatch.setattr(stop_request, "received", None)
    left = contents(tmp_path / "run" / ".shards.building")
    assert left
    with pytest.raises(TrineError, match=r"minimum_bytes|filters"):
        run(config(corpus=corpus.model_copy(update={"filters": FilterConfig(maximum_line_length=500)})))
    assert contents(tmp_path / "run" / ".shards.building") == left
    assert shards_in(run(config())) == shards_in(run(config(out=tmp_path / "at-once")))


def shards_in(run_folder: Path) -> dict[str, bytes]:
    return contents(run_folder / "shards")


def test_verify_names_what_is_damaged(tmp_path: Path, shards_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1.7: a digest on request."""
    copied = shutil.copytree(shards_run, tmp_path / "copy")
    assert main(["verify", str(copied)]) == 0
    assert "SHA-256 equal" in capsys.readouterr().out
    ids = copied / "shards" / "train" / "ids.bin"
    ids.write_bytes(ids.read_bytes()[:-2] + b"\7\0")
    assert main(["verify", str(copied)]) == 2
    assert str(ids) in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["verify", str(tmp_path / "empty")]) == 2
