"""Files that are not what their names say, and names that wrappers left: said, or understood."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.mutations import MUTATIONS
from tests.tiny import FAMILY_NAMES, random_ids, tiny_model, tiny_score_model
from trine.model.folder import load_model, load_score_model, read_config, save_model, save_score_model
from trine.model.gguf.reading import read_gguf
from trine.model.transformer import Transformer
from trine.model.weight_files import open_weights
from trine.runtime.errors import TrineError

families = pytest.mark.parametrize("family", FAMILY_NAMES)
IDS = random_ids(1, 7)
CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tiny_model("llama"), tmp_path)
    return tmp_path


def opened(folder: Path) -> Transformer:
    return load_model(folder, torch.float32, CPU)


def same(model: Transformer, other: Transformer) -> bool:
    return all(torch.equal(each, other.get_parameter(name)) for name, each in model.named_parameters())


MISHAPS = {
    "lfs_pointer": "is a git-lfs pointer of some 130 bytes; fetch the file itself with `git lfs pull`",
    "html": "is an HTML page, such as a download that failed leaves; download the file again",
    "gzipped": "is compressed with gzip; unpack it first",
    "empty": "is empty; download the file again",
}


@pytest.mark.parametrize("mishap", MISHAPS)
@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "model.safetensors.index.json", "model.gguf"])
def test_a_file_that_is_something_else_is_called_so(file: str, mishap: str, folder: Path) -> None:
    """4.5: a git-lfs pointer had "a header of 2336927755350992246 bytes"."""
    if "index" in file:
        (folder / "model.safetensors").unlink()
    path = folder / file
    path.write_bytes(MUTATIONS[mishap](b"anything", None))  # type: ignore[arg-type]
    with pytest.raises(TrineError, match=MISHAPS[mishap]) as caught:
        read_gguf(path) if file.endswith(".gguf") else opened(folder)
    assert str(path) in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_json(folder: Path) -> None:
    """4.5: editors of Windows write one."""
    before = read_config(folder)
    path = folder / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_config(folder) == before


def rename(folder: Path, change: object) -> None:
    path = folder / "model.safetensors"
    save_file({change(name): tensor for name, tensor in load_file(path).items()}, path)  # type: ignore[operator]


WRAPPED = (
    "module.",
    "_orig_mod.",
    "base_model.model.",
    "module._orig_mod.",
    "_forward_module.module.",
    "policy.",
    "x.y.z.",
)


@families
@pytest.mark.parametrize("prefix", WRAPPED)
def test_what_wrapped_a_model_when_it_was_saved_is_no_part_of_its_names(
    family: str, prefix: str, tmp_path: Path
) -> None:
    """4.5: one prefix of all names, whatever it is called."""
    save_model(tiny_model(family), tmp_path)
    rename(tmp_path, lambda name: prefix + name)
    assert same(opened(tmp_path), tiny_model(family))


@families
@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"])
def test_wrappers_of_blocks_are_no_part_of_their_names_either(family: str, wrapper: str, tmp_path: Path) -> None:
    """4.5: torch.compile and FSDP of single blocks."""
    save_model(tiny_model(family), tmp_path)
    rename(tmp_path, lambda name: name.replace(".0.", f".0.{wrapper}."))
    assert same(opened(tmp_path), tiny_model(family))


def test_a_bare_trunk_and_a_reward_model_may_be_wrapped_too(tmp_path: Path) -> None:
    """4.5: the kind: every folder whose tensors are named."""
    save_model(tiny_model("gpt2"), tmp_path)
    rename(tmp_path, lambda name: "module." + name.removeprefix("transformer."))
    assert same(opened(tmp_path), tiny_model("gpt2"))
    model = tiny_score_model("llama")
    save_score_model(model, tmp_path, pad_token_id=1)
    rename(tmp_path, lambda name: "module." + name)
    again = load_score_model(tmp_path, torch.float32, CPU)
    assert torch.equal(again.head.weight, model.head.weight)


def test_names_that_do_not_agree_are_listed(folder: Path) -> None:
    """4.5: "tensors are missing" names what is there."""
    rename(folder, lambda name: "module." + name if ".0." not in name else name)
    assert same(opened(folder), tiny_model("llama"))  # a wrapper's name, wherever it stands
    save_model(tiny_model("llama"), folder)
    rename(folder, lambda name: "odd." + name if ".0." in name else name)
    with pytest.raises(
        TrineError, match=r"layers\.0\..*are missing; of \d+ in the file these are unknown: \['odd\.model"
    ):
        opened(folder)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "consolidated.00.pth", "model.pt"]
)
def test_a_pickle_is_named_with_the_way_out(name: str, folder: Path) -> None:
    """4.5: nothing is unpickled; what to type instead is said."""
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"\x80\x02")
    (folder / "optimizer.pt").write_bytes(b"\x80\x02")
    with pytest.raises(
        TrineError, match=rf"{name}, a pickle, .*M\.from_pretrained\('.*'\)\.save_pretrained\('converted'\)"
    ):
        open_weights(folder)


def test_safetensors_of_another_name_are_named(folder: Path) -> None:
    """4.5: the file is there, under a name that nobody looks for."""
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    with pytest.raises(TrineError, match=r"rename weights\.safetensors to model\.safetensors if that is it"):
        open_weights(folder)


def test_shards_without_their_index_are_the_model_where_all_are_there(tmp_path: Path) -> None:
    """4.5: an index that was not copied loses nothing; a shard that was not does."""
    save_model(tiny_model("llama"), tmp_path, max_shard_bytes=9000)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert same(opened(tmp_path), tiny_model("llama"))
    last = sorted(tmp_path.glob("model-*"))[-1]
    last.unlink()
    with pytest.raises(TrineError, match=r"holds \d+ of the \d{5} shards .*model\.safetensors\.index\.json"):
        opened(tmp_path)


def test_two_names_for_one_tensor_are_refused(folder: Path) -> None:
    """4.5: a wrapped and a plain tensor of one name: neither is dropped silently."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file(weights | {"module.model.norm.weight": weights["model.norm.weight"] + 1}, path)
    with pytest.raises(TrineError, match=r"model\.safetensors: tensors .*model\.norm\.weight are one and the same"):
        opened(folder)


def test_integers_too_large_for_a_float_are_refused_by_key(folder: Path) -> None:
    """3.5: 10**400 is a number in JSON."""
    path = folder / "config.json"
    described = json.loads(path.read_text())
    for key in ("rms_norm_eps", "rope_theta"):
        path.write_text(json.dumps({**described, "rope_parameters": None, key: 10**400}))
        with pytest.raises(TrineError, match=rf"config\.json: {key}=1000"):
            read_config(folder)
