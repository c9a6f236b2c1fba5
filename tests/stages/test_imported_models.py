"""From somebody else's model to a policy: a folder that `transformers` wrote, and every stage after it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.conftest import PLAIN_CPU, QUIET_LOOP, Command
from tests.tokenizer.imported import smollm2
from trine.catalog.loading import open_hardware, open_model, open_score_model
from trine.catalog.locating import find_model
from trine.config.finetuning import FinetuneConfig
from trine.config.lora import LoraConfig
from trine.config.preferences import PreferencesConfig, RewardConfig
from trine.config.rl import PpoConfig
from trine.data.files import read_preferences
from trine.model.adapter_merging import merge_adapter
from trine.model.gguf.writing import write_gguf
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl
from trine.stages.finetuning import finetune
from trine.stages.preferences import pairs, reward
from trine.stages.rl import ppo
from trine.tokenizer.chat_format import chat_format
from trine.tokenizer.template_format import TemplateFormat

HARDWARE = open_hardware(PLAIN_CPU)
LORA = LoraConfig(rank=8, learning_rate=0.02)
SMALL: dict[str, Any] = {"loop": QUIET_LOOP, "hardware": PLAIN_CPU}
PAIRS = (("What is the number?", "5"), ("Add.", "a + b"), ("And the cat?", "the mat"), ("def f(x):", "return x")) * 4


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("imported")


@pytest.fixture(scope="module")
def theirs(place: Path) -> Path:
    """A model of the Llama family with its own tokenizer and chat template, written by `transformers`."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2(place / "tokenizer"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 4, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=192, initializer_range=0.2,
        tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(place / "theirs")
    tokenizer.save_pretrained(place / "theirs")
    return place / "theirs"


@pytest.fixture(scope="module")
def examples(place: Path) -> Path:
    path = place / "examples.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt, "response": answer}) + "\n" for prompt, answer in PAIRS))
    return path


@pytest.fixture(scope="module")
def finetuned(place: Path, theirs: Path, examples: Path) -> Path:
    return finetune.run(finetune_config(place / "finetune", theirs, examples))


def finetune_config(out: Path, model: Path | str, examples: Path, **changes: Any) -> FinetuneConfig:
    values = {"epochs": 30.0, "row_tokens": 192, "batch_size": 2, "micro_batch_size": 2, "lora": LORA} | SMALL
    return FinetuneConfig(**{"out": out, "model": model, "examples": examples} | values | changes)


@pytest.fixture(scope="module")
def compared(place: Path, finetuned: Path, examples: Path) -> Path:
    return pairs.run(
        PreferencesConfig(
            out=place / "preferences", model=finetuned, examples=examples, held_out=examples, samples=2,
            max_new_tokens=24, temperature=1.5, hardware=PLAIN_CPU,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def rewarding(place: Path, finetuned: Path, compared: Path) -> Path:
    return reward.run(
        RewardConfig(
            out=place / "reward", model=finetuned, preferences=compared, batch_size=4, micro_batch_size=4,
            epochs=8.0, **SMALL,
        )
    )  # fmt: skip


# The chain


def test_finetuning_teaches_it_to_answer(finetuned: Path) -> None:
    losses = [row["loss"] for row in read_jsonl(finetuned / "metrics.jsonl") if "loss" in row]
    assert losses[-1] < 0.5 * losses[0]


@torch.no_grad()
def test_what_finetuning_writes_is_what_transformers_opens_with_the_same_template(
    finetuned: Path, theirs: Path
) -> None:
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (theirs, finetuned / "model"))
    turns = [{"role": "user", "content": "What is the number, 42?"}]
    ids = after.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert ids == before.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert after.chat_template == before.chat_template
    model, tokenizer = open_model(finetuned, HARDWARE)
    assert isinstance(chat_format(tokenizer), TemplateFormat)
    logits = AutoModelForCausalLM.from_pretrained(finetuned / "model")(torch.tensor([ids])).logits
    assert (logits - model(torch.tensor([ids])) @ model.output_weight.T).abs().max() < 1e-4


@torch.no_grad()
def test_the_adapter_belongs_on_the_model_that_was_named(finetuned: Path, theirs: Path) -> None:
    assert read_json(finetuned / "adapter" / "adapter_config.json")["base_model_name_or_path"] == str(theirs)
    base, ids = open_model(theirs, HARDWARE)[0], torch.arange(3, 20)[None]
    base = merge_adapter(base, finetuned / "adapter").model
    assert (base(ids) - open_model(finetuned, HARDWARE)[0](ids)).abs().max() < 1e-4


def test_its_samples_become_comparisons_without_a_trace_of_the_template(compared: Path) -> None:
    pairs = read_preferences(compared / "train.jsonl")
    assert pairs
    assert {(pair.prompt[-1].content, pair.chosen) for pair in pairs} <= set(PAIRS)
    assert not any("<|" in pair.rejected for pair in pairs)


def test_a_reward_model_is_trained_from_it(rewarding: Path, theirs: Path) -> None:
    _, tokenizer = open_score_model(rewarding, HARDWARE)
    assert tokenizer.fingerprint == open_model(theirs, HARDWARE)[1].fingerprint
    assert read_json(rewarding / "model" / "config.json")["architectures"] == ["LlamaForSequenceClassification"]
    assert read_json(rewarding / "done.json")["pairs"] > 0


@pytest.mark.parametrize("critic", ["shared", "reward"])
def test_ppo_improves_it_against_that_reward(
    critic: Any, tmp_path: Path, finetuned: Path, rewarding: Path, examples: Path
) -> None:
    config = PpoConfig(
        out=tmp_path / "ppo", model=finetuned, prompts=examples, reward=str(rewarding), critic=critic, iterations=2,
        batch_size=8, minibatch_size=4, micro_batch_size=4, max_new_tokens=16, lora=LORA, **SMALL,
    )  # fmt: skip
    run = ppo.run(config)
    rows = [row for row in read_jsonl(run / "metrics.jsonl") if "kl" in row]
    assert rows[0]["kl"] == 0.0 != rows[-1]["kl"]
    assert max(row["engine_difference"] for row in rows) < 1e-4
    tokenizer = AutoTokenizer.from_pretrained(run / "policy")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(finetuned / "model").chat_template
    assert open_model(run, HARDWARE)[0].config.vocab_size == len(tokenizer) + 4


# Names


def test_a_gguf_file_is_finetuned_like_the_folder_it_came_from(tmp_path: Path, theirs: Path, examples: Path) -> None:
    model, tokenizer = open_model(theirs, HARDWARE)
    write_gguf(model, tokenizer, tmp_path / "theirs.gguf", "float32", "theirs")
    weights = []
    for number, name in enumerate((theirs, tmp_path / "theirs.gguf")):
        run = finetune.run(finetune_config(tmp_path / str(number), name, examples, epochs=2.0))
        weights.append(open_model(run, HARDWARE)[0].state_dict())
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def test_a_name_is_looked_up_by_every_stage(
    tmp_path: Path, theirs: Path, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trine.catalog.locating.packaged_smollm2", lambda: theirs)
    assert find_model("smollm2") == theirs
    run = finetune.run(finetune_config(tmp_path / "run", "smollm2", examples, epochs=2.0))
    record = read_json(run / "run.json")
    assert record["config"]["model"] == "smollm2"
    assert read_json(run / "adapter" / "adapter_config.json")["base_model_name_or_path"] == str(theirs)
    monkeypatch.setattr("trine.catalog.locating.packaged_smollm2", lambda: run / "model")
    with pytest.raises(TrineError, match="model: its content has changed"):
        finetune.run(finetune_config(tmp_path / "run", "smollm2", examples, epochs=2.0))


def test_an_adapter_of_a_model_of_the_hub_names_it_as_the_hub_does(
    tmp_path: Path, theirs: Path, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trine.catalog.locating.download", lambda name: theirs)
    run = finetune.run(finetune_config(tmp_path / "run", "owner/name", examples, epochs=1.0))
    assert read_json(run / "adapter" / "adapter_config.json")["base_model_name_or_path"] == "owner/name"


def test_a_path_is_the_same_model_however_it_is_spelled(tmp_path: Path, theirs: Path, examples: Path) -> None:
    finetune.run(finetune_config(tmp_path / "run", f"{theirs}/", examples, epochs=1.0))
    finetune.run(finetune_config(tmp_path / "run", theirs, examples, epochs=1.0))


@pytest.mark.parametrize("stage", ["finetune", "preferences", "reward", "ppo"])
def test_a_model_that_is_nowhere_ends_the_command_with_what_to_name(
    stage: str, tmp_path: Path, examples: Path, command: Command
) -> None:
    data = {"finetune": "examples", "preferences": "examples", "reward": "preferences", "ppo": "prompts"}[stage]
    rest = ["--reward", tmp_path / "nowhere"] if stage == "ppo" else []
    code, _, words = command(stage, "--out", tmp_path / "o", "--model", "smollm3", f"--{data}", examples, *rest)
    assert code == 2
    assert (
        "smollm3 does not exist; name a run, model or adapter folder, a .gguf file, smollm2, or owner/name on the hub"
        in words
    )


def test_a_gguf_file_is_no_reward_model(tmp_path: Path, theirs: Path, examples: Path) -> None:
    path = tmp_path / "theirs.gguf"
    write_gguf(*open_model(theirs, HARDWARE), path, "float32", "theirs")
    config = PpoConfig(out=tmp_path / "ppo", model=theirs, prompts=examples, reward=str(path), **SMALL)
    with pytest.raises(TrineError, match=r"theirs\.gguf is a language model; name the folder of a reward model"):
        ppo.run(config)
