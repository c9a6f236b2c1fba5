"""The tokenizer stage learns from the training part and measures on the rest."""

import json
import signal
from pathlib import Path

import pytest

from tests.conftest import PLAIN_CPU
from tests.tiny import tiny_tokenizer
from trine.config import extras
from trine.config.corpus import CorpusConfig, FilterConfig
from trine.config.text import TokenizerConfig
from trine.config.use import RunConfig
from trine.data.corpus import open_corpus
from trine.pipeline.runner import run as run_recipe
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json
from trine.runtime.signals import Interrupted, stop_request
from trine.stages.pretraining.tokenizer import bytes_per_token, run
from trine.tokenizer.tokenizer import Tokenizer


def test_it_writes_a_tokenizer_of_the_size_asked_for(tokenizer_run: Path) -> None:
    assert Tokenizer.load(tokenizer_run).vocab_size == 320
    results = read_json(tokenizer_run / "done.json")
    assert results["vocab_size"] == 320
    assert 1.2 < results["bytes_per_token"] < 6


def test_the_seed_does_not_change_it(tokenizer_run: Path, corpus: CorpusConfig, tmp_path: Path) -> None:
    again = run(TokenizerConfig(out=tmp_path, corpus=corpus, vocab_size=320, seed=5, hardware=PLAIN_CPU))
    assert (again / "tokenizer.json").read_bytes() == (tokenizer_run / "tokenizer.json").read_bytes()


def test_held_out_text_teaches_it_nothing(corpus: CorpusConfig, corpus_folder: Path, tmp_path: Path) -> None:
    """Two corpora that differ in a held-out file only give one tokenizer."""
    import shutil

    held_out = next(open_corpus(corpus).documents("held_out")).name
    other = shutil.copytree(corpus_folder, tmp_path / "other")
    (other / held_out).write_text("zebra zebra zebra " * 500)
    config = TokenizerConfig(out=tmp_path / "out", corpus=corpus, vocab_size=320, hardware=PLAIN_CPU)
    changed = config.model_copy(
        update={"out": tmp_path / "changed", "corpus": corpus.model_copy(update={"folders": (other,)})}
    )
    assert (run(config) / "tokenizer.json").read_bytes() == (run(changed) / "tokenizer.json").read_bytes()


def test_a_missing_package_is_said_first_and_the_corrected_command_is_taken(
    corpus: CorpusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3.9: it trained, wrote, and then failed; and the folder then refused another config."""
    asking = corpus.model_copy(update={"filters": FilterConfig(near_duplicates=True)})
    config = TokenizerConfig(out=tmp_path / "out", corpus=asking, vocab_size=320, hardware=PLAIN_CPU)
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(
        TrineError, match=r"corpus\.filters\.near_duplicates needs datasketch.*pip install 'trine\[clean\]'"
    ):
        run(config)
    assert not (tmp_path / "out").exists()
    assert (run(config.model_copy(update={"corpus": corpus})) / "done.json").exists()


def test_a_recipe_checks_all_its_stages_before_the_first(
    corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3.9: an hour of the stages before would be lost."""
    asking = {"folders": [str(corpus_folder)], "filters": {"near_duplicates": True}}
    stages = [
        {"stage": "tokenizer", "config": {"corpus": {"folders": [str(corpus_folder)]}, "vocab_size": 320}},
        {"stage": "shards", "config": {"tokenizer": "@tokenizer", "corpus": asking}},
    ]
    (tmp_path / "recipe.yaml").write_text(json.dumps({"title": "two", "stages": stages}))
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(TrineError, match="near_duplicates needs datasketch"):
        run_recipe(RunConfig(recipe=str(tmp_path / "recipe.yaml"), out=tmp_path / "runs", hardware=PLAIN_CPU))
    assert not list((tmp_path / "runs").glob("*/run.json"))


def test_measuring_stops_when_asked_to(corpus: CorpusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3.2: the whole stage does, not the training alone."""
    monkeypatch.setattr(stop_request, "received", signal.SIGTERM)
    with pytest.raises(Interrupted):
        bytes_per_token(open_corpus(corpus), tiny_tokenizer())
