"""`import trine`: light, typed from the configs, in the command line's words; and docs/python.md runs as it stands."""

import copy
import inspect
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import trine
from tests.conftest import PLAIN_CPU, Command
from trine.api.names import public_names
from trine.api.stub import STUB, stub
from trine.config.base import StageConfig
from trine.config.registry import STAGES, register
from trine.config.stage import Stage
from trine.config.use import SamplingConfig
from trine.runtime.files import write_json
from trine.runtime.signals import stop_request

ROOT = Path(__file__).parent.parent
PAGES = ("python.md", "python.zh-CN.md")
CPU = {"device": "cpu", "precision": "fp32", "threads": 1}
QUESTION = [{"role": "user", "content": "Add a and b."}]
RECIPE = """
title: Tiny
shared: {corpus: &corpus {folders: [texts], held_out_share: 0.25}}
stages:
  - {stage: tokenizer, config: {corpus: *corpus, vocab_size: 300}}
  - stage: pretrain
    config:
      {corpus: *corpus, tokenizer: "@tokenizer", model: {layers: 1, width: 32, heads: 2, context: 32}, tokens: 1280,
       row_tokens: 32, batch_size: 4, micro_batch_size: 4}
"""


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that would outlast the test: the allocator's settings, and a GPU where there is one."""
    monkeypatch.setattr("trine.runtime.allocator.keep_freed_memory", lambda: True)
    monkeypatch.setenv("TRINE_DEVICE", "cpu")


@pytest.fixture
def model(finetune_run: Path) -> trine.Model:
    return trine.load(finetune_run, device="cpu", precision="fp32", threads=1, rows=4)


# The page


def blocks(page: str) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text("utf-8"), re.DOTALL))


def test_every_example_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: Path, corpus_folder: Path, ppo_run: Path
) -> None:
    pytest.importorskip("llguidance")
    shutil.copytree(shared, tmp_path / "runs" / "quickstart")
    shutil.copytree(corpus_folder, tmp_path / "texts")
    (tmp_path / "my.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(blocks(PAGES[0]), PAGES[0], "exec"), names)
    assert (tmp_path / "runs" / "mine" / "report.html").exists()


def test_both_languages_show_the_same_program() -> None:
    without_comments = [re.sub(r"  # .*", "", blocks(page)) for page in PAGES]
    assert without_comments[0] == without_comments[1]


def test_the_page_names_every_stage() -> None:
    for page in PAGES:
        text = (ROOT / "docs" / page).read_text("utf-8")
        assert [name for name in public_names() if name.islower() and f"trine.{name}" not in text] == []


# Importing and types


def test_importing_trine_imports_nothing_heavy() -> None:
    script = (
        "import sys, trine; trine.__version__; trine.TrineError; dir(trine); "
        "heavy = ('torch', 'numpy', 'pydantic', 'transformers', 'tokenizers', 'yaml', 'rich'); "
        "print([name for name in heavy if name in sys.modules])\n"
        "trine.pretrain; print([name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["[]", "[]"]


def test_the_stub_is_what_the_registry_says() -> None:
    assert STUB.read_text("utf-8") == stub(), "a config or stage has changed: run python -m trine.api.stub"


def test_every_name_is_there_and_none_is_a_package() -> None:
    packages = {path.name for path in Path(trine.__path__[0]).iterdir() if path.is_dir()}
    for name in public_names():
        assert callable(getattr(trine, name)) and name in dir(trine) and name not in packages


def test_a_stage_shows_its_fields_defaults_and_docs() -> None:
    signature = inspect.signature(trine.finetune)
    assert list(signature.parameters)[:3] == ["out", "model", "examples"]
    assert signature.parameters["epochs"].default == 1.0
    assert signature.parameters["out"].default is inspect.Parameter.empty
    assert "passes over the examples" in (trine.finetune.__doc__ or "")
    assert "newton_schulz" in (trine.finetune.__doc__ or "")
    assert trine.finetune.__name__ == "finetune"


def test_sampling_options_are_the_fields_of_the_config() -> None:
    from trine.api.model import SamplingOptions

    assert SamplingOptions.__annotations__.keys() == SamplingConfig.model_fields.keys()


# Errors


def error_of(call: object, *args: object, **fields: object) -> str:
    with pytest.raises(trine.TrineError) as caught:
        call(*args, **fields)  # type: ignore[operator]
    return str(caught.value)


def test_mistakes_are_told_as_on_the_command_line(tmp_path: Path) -> None:
    told = error_of(trine.finetune, tmp_path, modle="x", loop={"save_evry": 1})
    assert "trine.finetune: unknown key 'modle'; did you mean 'model'?" in told
    assert "unknown key 'loop.save_evry'; did you mean 'save_every'?" in told
    assert "'examples' is required" in told
    assert "it is now 'gae_lambda'" in error_of(trine.ppo, tmp_path, "m", "p", "r", lam=0.9)
    assert "given twice" in error_of(trine.finetune, tmp_path, out=tmp_path)
    assert "name the others" in error_of(trine.finetune, *"abcd")
    assert "does not exist" in error_of(trine.load, tmp_path / "none")
    assert "weights" in error_of(trine.load, tmp_path, weights="int4")
    assert "precision" in error_of(trine.load_reward, "x", precision="fp64")
    assert "neither a file nor built in" in error_of(trine.run, "quikstart", tmp_path)


@pytest.mark.parametrize(
    "name, hint",
    [("finetun", "mean 'finetune'"), ("compare", "now 'preferences'"), ("Modell", "mean 'Model'")],
)
def test_an_unknown_name_is_told_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(AttributeError, match=hint):
        getattr(trine, name)
    assert not hasattr(trine, "__wrapped__")


def test_a_model_refuses_what_it_cannot_do(model: trine.Model) -> None:
    assert "did you mean 'temperature'?" in error_of(model.generate, "a", temprature=1)
    assert "max_new_tokens" in error_of(model.generate, "a", max_new_tokens=0)
    assert "is no text" in error_of(model.generate, QUESTION)
    assert "samples=0" in error_of(model.generate, "a", samples=0)
    assert "stream=True" in error_of(model.generate, ["a", "b"], stream=True)
    assert "did you mean 'user'?" in error_of(model.chat, [{"role": "usr", "content": "a"}])
    assert "a conversation is a list" in error_of(model.chat, "hello")
    assert "a conversation is a list" in error_of(model.chat, [])
    assert "message 0" in error_of(model.chat, [{"role": "user", "text": "a"}])
    assert "is no text" in error_of(model.chat, [{"role": "user", "content": 3}])
    assert "2 prompts come with 1 responses" in error_of(model.log_probs, ["a", "b"], ["c"])


# Models and rewards


def test_a_model_writes_what_the_command_writes(model: trine.Model, finetune_run: Path, command: Command) -> None:
    hardware = ("--hardware.device", "cpu", "--hardware.precision", "fp32", "--hardware.threads", "1")
    options = ("--max_new_tokens", "12", "--seed", "3", *hardware)
    _, said, _ = command("generate", finetune_run, "def f", *options)
    assert said == "def f" + model.generate("def f", max_new_tokens=12, seed=3) + "\n"
    _, said, _ = command("generate", finetune_run, "Add a and b.", "--chat", "true", *options)
    assert said == model.chat(QUESTION, max_new_tokens=12, seed=3) + "\n"
    _, said, _ = command("generate", finetune_run, "def f", "--samples", "3", *options)
    samples = model.generate("def f", max_new_tokens=12, seed=3, samples=3)
    assert said == "".join("def f" + each + "\n" for each in samples)


def test_answers_do_not_depend_on_company(model: trine.Model) -> None:
    prompts = ["def f", "import os", "x ="]
    together = model.generate(prompts, max_new_tokens=10, seed=5)
    assert together == [model.generate(prompt, max_new_tokens=10, seed=5) for prompt in prompts]
    samples = model.generate(prompts, max_new_tokens=10, seed=5, samples=2)
    assert [first for first, _ in samples] == together
    assert samples[0][0] != samples[0][1]
    assert model.generate([]) == []


def test_a_stream_is_the_answer_in_pieces(model: trine.Model) -> None:
    whole = model.chat(QUESTION, max_new_tokens=24, seed=2, stop_strings=["b"])
    pieces = list(model.chat(QUESTION, max_new_tokens=24, seed=2, stop_strings=["b"], stream=True))
    assert "".join(pieces) == whole and "b" not in whole
    stream = model.generate("def f", max_new_tokens=24, stream=True)
    assert isinstance(stream, Iterator)
    next(stream)
    del stream  # leaves the engine free for the next
    assert isinstance(model.generate("def f", max_new_tokens=4), str)


def test_threads_share_a_model(model: trine.Model) -> None:
    prompts = [f"x{number} =" for number in range(8)]
    alone = [model.generate(prompt, max_new_tokens=12, seed=1) for prompt in prompts]
    answers: dict[int, str] = {}

    def ask(number: int) -> None:
        answers[number] = "".join(model.generate(prompts[number], max_new_tokens=12, seed=1, stream=True))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answers[number] for number in range(8)] == alone


def test_a_completion_is_a_text_that_knows_its_tokens(model: trine.Model) -> None:
    answer = model.generate("def f", max_new_tokens=6, temperature=1.0)
    assert len(answer.ids) == len(answer.log_probs) and answer.stop_reason in ("eos", "stop", "length")
    assert type(answer.text) is str and answer.text == answer
    for other in (copy.deepcopy(answer), pickle.loads(pickle.dumps(answer))):  # noqa: S301
        assert (other, other.ids, other.log_probs) == (answer, answer.ids, answer.log_probs)


def test_log_probs_are_those_of_the_sampled_answer(model: trine.Model) -> None:
    answer = model.chat(QUESTION, max_new_tokens=40, temperature=1.0, seed=1)
    ids = model.tokenizer.encode(answer)
    one = model.log_probs(QUESTION, answer)
    assert len(one) == len(ids) + 1 and all(value <= 0 for value in one)
    if answer.stop_reason == "eos" and answer.ids[:-1] == tuple(ids):
        assert one == pytest.approx(answer.log_probs, abs=1e-4)
    assert model.log_probs([QUESTION, "def f"], [answer, "(x)"])[0] == pytest.approx(one, abs=1e-5)
    assert len(model.log_probs("def f", "(x)")) == len(model.tokenizer.encode("(x)"))


def test_a_reward_scores_texts_and_conversations(reward_run: Path) -> None:
    reward = trine.load_reward(reward_run, **CPU)  # type: ignore[arg-type]
    one = reward.score("Add a and b.", "return a + b")
    assert reward.score(QUESTION, "return a + b") == one
    assert reward.score([QUESTION, "Other."], ["return a + b", "pass"])[0] == pytest.approx(one, abs=1e-5)
    assert "2 prompts come with 1 responses" in error_of(reward.score, ["a", "b"], ["c"])
    assert trine.load_reward("tests.test_python:length").score("a", "four") == 4.0


def length(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(len(response)) for response in responses]


# Stages


class ToyConfig(StageConfig):
    """Write a toy."""

    size: int = 1
    """how big"""


def run_toy(config: ToyConfig) -> Path:
    config.out.mkdir(parents=True)
    write_json(config.out / "done.json", {"size": config.size})
    return config.out


def stop_toy(config: ToyConfig) -> Path:
    os.kill(os.getpid(), signal.SIGINT)
    stop_request.check()
    raise AssertionError("the signal has come")


@pytest.fixture
def toy() -> Iterator[None]:
    register(Stage("toy", "write a toy", config="tests.test_python:ToyConfig", run="tests.test_python:run_toy"))
    yield
    del STAGES["toy"]


@pytest.mark.usefixtures("toy")
def test_a_registered_stage_is_a_function(tmp_path: Path) -> None:
    result = trine.toy(tmp_path / "toy", size=3)  # type: ignore[attr-defined]
    assert (result.path, result.stage, result.figures) == (tmp_path / "toy", "toy", {"size": 3})
    assert result.model is None and result.metrics() == []
    assert Path(result) == result.path


@pytest.mark.usefixtures("toy")
def test_ctrl_c_lets_a_stage_save_and_is_raised_after(tmp_path: Path) -> None:
    register(Stage("toy", "write a toy", config="tests.test_python:ToyConfig", run="tests.test_python:stop_toy"))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trine.toy(tmp_path / "toy")  # type: ignore[attr-defined]
    assert signal.getsignal(signal.SIGINT) is before and stop_request.received is None


def test_a_stage_called_from_a_thread_leaves_signals_alone(tmp_path: Path, corpus_folder: Path) -> None:
    results: list[trine.Result] = []

    def train() -> None:
        corpus = {"folders": [corpus_folder]}
        results.append(trine.train_tokenizer(tmp_path / "t", corpus=corpus, vocab_size=300, hardware=PLAIN_CPU))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert (results[0].path / "tokenizer.json").exists()
