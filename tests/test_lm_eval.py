"""lm_eval's figures of a model are the same by Trine as by its own class `hf` on the exported folder."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.lm_eval_tasks import evaluate, write_tasks
from tests.tiny import tiny_model, tiny_tokenizer
from trine.model.folder import save_model
from trine.runtime.errors import TrineError

pytestmark = [
    pytest.mark.slow,  # lm_eval and what it imports take 10 s
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="pip install 'trine[evals]'"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_model(tiny_model("llama", vocab_size=320, context=128), path, pad_token_id=0, eos_token_id=0)
    tiny_tokenizer().save(path)
    return path


@pytest.mark.parametrize("chat", [False, True])
def test_every_figure_and_answer_equals_that_of_hf(
    folder: Path, tmp_path: Path, chat: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tasks = write_tasks(tmp_path)
    ours = evaluate("trine", {"pretrained": str(folder), "precision": "fp32"}, tasks, chat=chat)
    theirs = evaluate("hf", {"pretrained": str(folder), "dtype": "float32"}, tasks, chat=chat)
    assert {name for _, name in theirs["figures"]} >= {"acc", "acc_norm", "acc_bytes", "exact_match", "bits_per_byte"}
    assert ours["figures"] == pytest.approx(theirs["figures"], rel=1e-5)
    for task, answers in theirs["answers"].items():
        if task.startswith("answer"):
            assert ours["answers"][task] == answers
        elif task.startswith("choice"):
            assert [[greedy for [(_, greedy)] in each] for _, each in ours["answers"][task]] == [
                [greedy for [(_, greedy)] in each] for _, each in answers
            ]


def test_a_text_has_one_bos_and_not_two(folder: Path) -> None:
    from trine.api.lm_eval import TrineLM

    model = TrineLM(str(folder), precision="fp32", device="cpu")
    tokenizer = model._tokens
    bos = tokenizer.end_of_text
    tokenizer.bos_id = bos
    try:
        name = tokenizer.name_of(bos)
        assert model.tok_encode("a b")[0] == bos
        assert model.tok_encode(f"{name}a b") == model.tok_encode("a b")
        assert model.tok_encode("a b", add_special_tokens=False) == model.tok_encode("a b")[1:]
    finally:
        tokenizer.bos_id = None
    assert model.tok_encode("a b")[0] != bos


def test_a_budget_without_room_for_a_prompt_is_refused(folder: Path) -> None:
    from trine.api.lm_eval import TrineLM

    model = TrineLM(str(folder), precision="fp32", device="cpu")
    with pytest.raises(TrineError, match="max_gen_toks=128 leaves no room for a prompt in a context of 128"):
        model._generate(["a"], {"max_gen_toks": 128})
