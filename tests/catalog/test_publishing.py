"""A finished model goes to the hub whole, with a card and nothing else, and what fails loses nothing.

The hub is a stand-in on 127.0.0.1 that speaks the hub's HTTP interface; the client is `huggingface_hub` itself.
"""

import socket
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import yaml

from tests.conftest import Command, pretrain_config
from tests.hub_stand_in import HubStandIn, serving
from trine.catalog.publishing import push_model
from trine.config.corpus import CorpusConfig
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json
from trine.stages.pretraining.pretrain import run

FILES = "/{repo_id}/resolve/{revision}/{filename}"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    """The stand-in, with `huggingface_hub` set up as HF_ENDPOINT, HF_HOME and HF_HUB_DISABLE_XET=1 would."""
    with serving(HubStandIn({}, store=tmp_path / "hub")) as hub:
        settings = {
            "ENDPOINT": hub.endpoint, "HUGGINGFACE_CO_URL_TEMPLATE": f"{hub.endpoint}{FILES}",
            "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": True,
            "HF_TOKEN_PATH": str(tmp_path / "token"), "HF_STORED_TOKENS_PATH": str(tmp_path / "tokens"),
        }  # fmt: skip
        for name, value in settings.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        yield hub


def test_a_pushed_model_is_opened_by_its_name(
    command: Command, tmp_path: Path, pretrain_run: Path, hub: HubStandIn
) -> None:
    code, out, _ = command("push", pretrain_run, "me/small", "--private", "true")
    assert (code, out) == (0, f"{hub.endpoint}/me/small\n")
    assert hub.created["me/small"]["visibility"] == "private"
    pushed, model = hub.repositories["me/small"], pretrain_run / "model"
    assert {path.name for path in pushed.iterdir()} == {path.name for path in model.iterdir()} | {"README.md"}
    assert (pushed / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    arguments = ("--prompt", "def add_", "--temperature", 0, "--hardware.precision", "fp32", "--hardware.threads", 1)
    answers = [command("generate", name, *arguments) for name in ("me/small", pretrain_run)]
    assert answers[0][:2] == answers[1][:2] and answers[0][1].startswith("def add_"), answers[0][2]


def test_the_card_tells_what_the_run_folder_tells(pretrain_run: Path, hub: HubStandIn) -> None:
    push_model(pretrain_run, "me/small")
    _, header, body = (hub.repositories["me/small"] / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(header)["library_name"] == "transformers"
    read = f"| tokens read | {read_json(pretrain_run / 'done.json')['tokens']:,} |"
    for words in ("# pretrain", "| parameters | 37,", read, "bits per byte, folders", "Qwen3ForCausalLM",
                  "kind muon", "Licence: not stated"):  # fmt: skip
        assert words in body


def test_a_card_of_ones_own_stays(tmp_path: Path, pretrain_run: Path, hub: HubStandIn) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for path in (pretrain_run / "model").iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "README.md").write_text("mine")
    push_model(folder, "me/mine")
    assert (hub.repositories["me/mine"] / "README.md").read_text() == "mine"


def test_pretraining_pushes_what_it_made(
    tmp_path: Path, corpus: CorpusConfig, tokenizer_run: Path, hub: HubStandIn
) -> None:
    folder = run(pretrain_config(tmp_path / "run", corpus, tokenizer_run, tokens=512, push_to_hub="me/fresh"))
    pushed = hub.repositories["me/fresh"]
    assert (pushed / "config.json").read_bytes() == (folder / "model" / "config.json").read_bytes()
    assert "bits per byte" in (pushed / "README.md").read_text()
    hub.requests.clear()
    again = run(pretrain_config(tmp_path / "run", corpus, tokenizer_run, tokens=512))
    assert again == folder and hub.requests == []  # whether it was pushed is no part of what a run made


def test_pushing_again_replaces_the_files(pretrain_run: Path, hub: HubStandIn) -> None:
    for _ in range(2):
        push_model(pretrain_run, "me/small")
    assert len([request for request in hub.requests if request.endswith("/commit/main")]) == 2


def test_a_wrong_token_is_said(pretrain_run: Path, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(TrineError, match=r"the hub does not know the token .*; log in again with `hf auth login`"):
        push_model(pretrain_run, "me/small")


def test_someone_elses_name_is_said(pretrain_run: Path, hub: HubStandIn) -> None:
    with pytest.raises(TrineError, match=r"the token may not write there .*no rights to create a model under you"):
        push_model(pretrain_run, "you/small")


def test_an_upload_that_breaks_says_how_to_repeat_it(pretrain_run: Path, hub: HubStandIn) -> None:
    hub.lfs_broken = True
    words = rf"the model is safe in {pretrain_run}/model, and this uploads it: trine push {pretrain_run} me/small"
    with pytest.raises(TrineError, match=words):
        push_model(pretrain_run, "me/small")
    hub.lfs_broken = False
    push_model(pretrain_run, "me/small")
    assert "me/small" in hub.repositories


def test_a_hub_that_cannot_be_reached_is_said(
    pretrain_run: Path, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    with pytest.raises(TrineError, match=r"me/small was not pushed: the upload failed, is there a connection.*Connect"):
        push_model(pretrain_run, "me/small")


@pytest.mark.parametrize("name", ["small", "me/small/model.gguf", "me/", "../small/x"])
def test_a_name_without_an_owner_is_refused_before_the_training(
    tmp_path: Path, corpus: CorpusConfig, tokenizer_run: Path, name: str
) -> None:
    with pytest.raises(TrineError, match="is no name on the hub; name the owner too"):
        run(pretrain_config(tmp_path / "run", corpus, tokenizer_run, push_to_hub=name))
    assert not (tmp_path / "run").exists()


def test_nobody_logged_in_is_said_before_the_training(
    tmp_path: Path, corpus: CorpusConfig, tokenizer_run: Path, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(TrineError, match="nobody is logged in to push me/small: run `hf auth login`, or set HF_TOKEN"):
        run(pretrain_config(tmp_path / "run", corpus, tokenizer_run, push_to_hub="me/small"))


def test_only_what_is_here_is_pushed(hub: HubStandIn) -> None:
    with pytest.raises(TrineError, match="runs/none is no folder here"):
        push_model(Path("runs/none"), "me/small")
