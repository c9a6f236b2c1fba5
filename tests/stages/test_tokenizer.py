"""The tokenizer stage learns from the training part and measures on the rest."""

from pathlib import Path

from tests.conftest import PLAIN_CPU
from trine.config.corpus import CorpusConfig
from trine.config.text import TokenizerConfig
from trine.runtime.files import read_json
from trine.stages.pretraining.tokenizer import run
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

    from trine.data.corpus import open_corpus

    held_out = next(open_corpus(corpus).documents("held_out")).name
    other = shutil.copytree(corpus_folder, tmp_path / "other")
    (other / held_out).write_text("zebra zebra zebra " * 500)
    config = TokenizerConfig(out=tmp_path / "out", corpus=corpus, vocab_size=320, hardware=PLAIN_CPU)
    changed = config.model_copy(
        update={"out": tmp_path / "changed", "corpus": corpus.model_copy(update={"folders": (other,)})}
    )
    assert (run(config) / "tokenizer.json").read_bytes() == (run(changed) / "tokenizer.json").read_bytes()
