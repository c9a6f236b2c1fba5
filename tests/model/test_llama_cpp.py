"""llama.cpp opens our GGUF files, and writes what our engine writes. By hand, on a quickstart's run:

TRINE_LLAMA_PYTHON=<python with llama-cpp-python> TRINE_QUICKSTART=runs/quickstart \\
    python -m pytest -m slow -s tests/model/test_llama_cpp.py
"""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import PLAIN_CPU
from tests.greedy import margins
from tests.model.test_gguf import LOGIT_ERROR, ODD_TEXT, dtypes, logits_of, reopened, shape, written
from tests.tiny import FAMILY_NAMES, tiny_tokenizer
from trine.catalog.loading import open_hardware, open_model
from trine.cli.exchange import export_model
from trine.config.use import ExportConfig
from trine.data.exchanges import read_examples
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.model.config import RopeScaling
from trine.tokenizer.chat_format import Chat, chat_format

PROMPTS, TOKENS = 16, 64
CLOSE = 0.05  # nats: rounding may decide between tokens this near

ASK_LOGITS = """
import json, sys, numpy, llama_cpp
path, text = sys.argv[1:]
model = llama_cpp.Llama(path, verbose=False, n_ctx=128, logits_all=True, n_threads=1, type_k=0, type_v=0)
ids = model.tokenize(text.encode(), add_bos=False, special=False)
model.eval(ids)
print(json.dumps({"ids": ids, "logits": numpy.array(model.scores[: len(ids)]).tolist()}))
"""

WRITE_GREEDILY = """
import json, sys, llama_cpp
asked = json.load(sys.stdin)
model = llama_cpp.Llama(sys.argv[1], verbose=False, n_ctx=asked["context"], n_threads=1)
answers = []
for prompt in asked["prompts"]:
    answers.append([])
    for token in model.generate(prompt, temp=0.0):
        answers[-1].append(token)
        if token in asked["end_ids"] or len(answers[-1]) == asked["tokens"]:
            break
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def llama_python() -> str:
    python = os.environ.get("TRINE_LLAMA_PYTHON")
    if not python:
        pytest.skip("TRINE_LLAMA_PYTHON does not name a Python that has llama-cpp-python")
    return python


def answer_of(python: str, code: str, *arguments: str, given: Any = None) -> Any:
    """What a program prints as JSON on its last line."""
    command = [python, "-c", code, *arguments]
    answer = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=True)
    return json.loads(answer.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("case", [*FAMILY_NAMES, "linear", "llama3"])
@dtypes
@torch.no_grad()
def test_llama_cpp_opens_the_file_with_our_ids_and_our_logits(
    case: Any, dtype: Any, llama_python: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    config = shape(case if case in FAMILY_NAMES else "llama")
    if case not in FAMILY_NAMES:
        config = replace(config, head_dim=64, rope_scaling=RopeScaling(case, 8.0, original_context=64))
    written(path, config, dtype)
    asked = answer_of(llama_python, ASK_LOGITS, str(path), ODD_TEXT)
    assert asked["ids"] == tiny_tokenizer().encode(ODD_TEXT)
    ours, theirs = logits_of(reopened(path), torch.tensor([asked["ids"]]))[0], torch.tensor(asked["logits"])
    # llama.cpp rounds its activations to the stored type, so that its distance to us is of the type's own size; and
    # it looks gelu up in a table of fp16.
    assert (ours - theirs).abs().mean() < (2e-3 if case == "gpt2" and dtype == "float32" else LOGIT_ERROR[dtype])
    if dtype != "q8_0":
        assert (ours.argmax(-1) == theirs.argmax(-1)).float().mean() > 0.95


# A model that was trained


@pytest.fixture(scope="module")
def quickstart() -> Path:
    """The folder of a recipe's runs: functions/, and finetune/ or ppo/ with the model."""
    folder = os.environ.get("TRINE_QUICKSTART")
    if not folder:
        pytest.skip("TRINE_QUICKSTART does not name the folder of a quickstart's runs")
    return Path(folder)


@pytest.fixture(scope="module")
def run(quickstart: Path) -> Path:
    finished = [quickstart / name for name in ("ppo", "finetune") if (quickstart / name / "done.json").exists()]
    assert finished, f"{quickstart} holds no finished run of finetune or ppo"
    return finished[0]


def prompts_of(quickstart: Path, chat: Chat) -> list[list[int]]:
    """Held-out questions with as much of a person's answer as makes 64 tokens."""
    examples = read_examples(quickstart / "functions" / "held_out.jsonl")
    rows = [list(chat.example(example.prompt, example.response).ids) for example in examples]
    return [row[:TOKENS] for row in rows if len(row) > TOKENS][:PROMPTS]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "q8_0"])
@torch.no_grad()
def test_llama_cpp_writes_what_the_engine_writes(
    dtype: Any, llama_python: str, quickstart: Path, run: Path, tmp_path: Path
) -> None:
    model, tokenizer = open_model(run, open_hardware(PLAIN_CPU))
    chat = chat_format(tokenizer)
    prompts = prompts_of(quickstart, chat)
    assert len(prompts) == PROMPTS
    path = tmp_path / "model.gguf"
    export_model(ExportConfig(model=str(run), out=path, to="gguf", dtype=dtype))
    asked = {"prompts": prompts, "end_ids": chat.end_ids, "tokens": TOKENS, "context": 2 * TOKENS}
    theirs = answer_of(llama_python, WRITE_GREEDILY, str(path), given=asked)
    rollouts = Engine(model).generate(prompts, Sampling(TOKENS, 0.0, eos_ids=chat.end_ids))

    def next_logits(ids: list[int]) -> Tensor:
        return model(torch.tensor([ids]))[0, -1] @ model.output_weight.T

    found = margins(prompts, [list(rollout.response_ids) for rollout in rollouts], theirs, next_logits)
    tokens = sum(map(len, theirs))
    print(f"\n{dtype}: {PROMPTS - len(found)} of {PROMPTS} equal, {tokens} tokens; margins of the others: {found}")
    assert all(theirs)
    if dtype == "float16":  # Q8_0 is another model; that it runs is all that is asked
        assert len(found) <= 1
        assert all(margin < CLOSE for margin in found)
