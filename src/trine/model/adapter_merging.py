"""Merging a PEFT adapter into a model: what the adapted model computes, as plain weights (Hu et al. 2021, section 4.1).

W becomes W + scale * B A, for linear maps and embeddings; with DoRA (Liu et al. 2024) its rows are scaled to the
magnitudes learned. Tensors that the adapter holds whole (`modules_to_save`, biases, embeddings of a changed vocabulary)
take the place of the base's. Tied embeddings that the adapter changes at one end only are untied, as PEFT has them.

Invariants: no memory is allocated before adapter_config.json, the header of the weights and the model agree on every
name and shape; all tensors of the file are applied, or the adapter is refused with the names of those that cannot be.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trine.model.adapter_settings import CONFIG, WEIGHTS, AdapterSettings, read_settings
from trine.model.config_keys import how_to_ignore
from trine.model.families import family_of, hugging_face_views, transposed_names
from trine.model.folder import SCORE_WEIGHT, refuse_non_finite
from trine.model.safetensors_header import TensorPlace, read_header
from trine.model.transformer import Transformer
from trine.runtime.errors import TrineError

_HEAD = "lm_head"
_WRAPPERS = re.compile(r"(?<![^.])(base_model\.model|_orig_mod|module|modules_to_save|default|original_module)\.(?=.)")
_KIND = re.compile(
    r"(?P<module>.+?)\.(?P<kind>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector|token_adapter\.trainable_tokens_delta|(?:base_layer\.)?weight|(?:base_layer\.)?bias)"
)
_TRUNKS = ("model.", "transformer.")
_LOW_RANK = {"lora_A.weight", "lora_B.weight", "lora_embedding_A", "lora_embedding_B"}
_WHOLE = ("weight", "bias")
_TOKENS = "token_adapter.trainable_tokens_delta"
_MAGNITUDE = "lora_magnitude_vector"
Parts = dict[str, TensorPlace]  # kind -> tensor


@dataclass(frozen=True)
class Merged:
    """A model with an adapter in it; `head` is the score head that an adapter of a reward model brings."""

    model: Transformer
    head: Tensor | None


def set_row_norms(weight: Tensor, magnitude: Tensor) -> None:
    """Scale the rows of `weight` [out, in] to the norms `magnitude` [out], in place (DoRA, Liu et al. 2024, eq. 5)."""
    weight.mul_((magnitude / weight.norm(dim=1)).unsqueeze(1))


def merge_adapter(model: Transformer, folder: Path, *, ignored: Collection[str] = ()) -> Merged:
    """`model` with the adapter in `folder` merged in: the same object, changed, unless its embeddings change shape.

    Example::

        model = load_model(Path("base"), torch.float32, torch.device("cpu"))
        model = merge_adapter(model, Path("adapter")).model

    Raises `TrineError` naming a setting or a tensor that does not fit the model.
    """
    folder = Path(folder)
    settings = read_settings(folder, ignored)
    tensors = _read_names(folder, model)
    head = tensors.pop(SCORE_WEIGHT.removesuffix(".weight"), {}).get("weight")
    merging = _Merging(model, settings, tensors, folder / WEIGHTS)
    merging.check()
    if head is not None and head.shape != (1, model.config.width):
        raise TrineError(f"{head.path}: {SCORE_WEIGHT} has shape {head.shape}; it must be {(1, model.config.width)}")
    with torch.no_grad():
        return Merged(merging.merged(), None if head is None else _read(head))


def _read_names(folder: Path, model: Transformer) -> dict[str, Parts]:
    """The tensors of the adapter by module and kind, under the base's names, whatever wrapped it when it was saved."""
    path = folder / WEIGHTS
    if not path.exists() and (folder / "adapter_model.bin").exists():
        raise TrineError(
            f"{folder} holds its weights as adapter_model.bin, a pickle, which can run any code and is never opened; "
            "if you trust the file, load it with PeftModel.from_pretrained of peft and save it with save_pretrained"
        )
    header, grouped = read_header(path), dict[str, Parts]()
    trunk = family_of(model.config).weights["embedding.weight"][0][0].split(".")[0] + "."
    for name, place in header.items():
        plain = _WRAPPERS.sub("", f"{name}.").removesuffix(".").replace(f"{_MAGNITUDE}.weight", _MAGNITUDE)
        found = _KIND.fullmatch(plain)
        if found is None:
            raise TrineError(f"{path}: tensor {name} is of a kind that is not supported")
        module, kind = found["module"], found["kind"].removeprefix("base_layer.")
        if not module.startswith((*_TRUNKS, _HEAD, "score")):  # an adapter of the trunk alone
            module = trunk + module
        if kind in grouped.setdefault(module, {}):
            raise TrineError(f"{path}: tensors {grouped[module][kind].name} and {name} are one and the same")
        grouped[module][kind] = place
    return grouped


def _read(place: TensorPlace) -> Tensor:
    tensor = place.read()
    refuse_non_finite(f"tensor {place.name}", tensor, str(place.path))
    return tensor


def _inside(name: str, modules: Collection[str]) -> bool:
    """Whether `name` is one of `modules`, or part of the name of one."""
    return any(f".{name}." in f".{module}." for module in modules)


class _Merging:
    """One adapter and the model that it changes; `views` are the model's parameters by Hugging Face names."""

    def __init__(self, model: Transformer, settings: AdapterSettings, tensors: dict[str, Parts], path: Path) -> None:
        self.model, self.settings, self.tensors, self.path = model, settings, tensors, path
        self.views = hugging_face_views({name: each.data for name, each in model.named_parameters()}, model.config)
        self.transposed = transposed_names(model.config)
        table = family_of(model.config).weights
        self.embedding, *others = (
            table[f"{name}.weight"][0][0].removesuffix(".weight")
            for name in ("embedding", "position_embedding")
            if f"{name}.weight" in table
        )
        self.tables = {self.embedding, *others}
        self.modules = {name.removesuffix(".weight") for name, view in self.views.items() if view.dim() == 2} | {_HEAD}

    # Checks, before anything is read

    def check(self) -> None:
        changed = {module for module, parts in self.tensors.items() if parts.keys() & _LOW_RANK}
        wanted = {
            module
            for module in self.modules
            if self.settings.is_target(module, linear=module not in self.tables | {_HEAD})
        }
        self._refuse_names(sorted(wanted - changed), sorted(changed - wanted))
        self._refuse_halves()
        for module, parts in self.tensors.items():
            for kind, place in parts.items():
                place.require_floats()
                expected = self._shape(module, kind, place)
                if place.shape != expected:
                    raise TrineError(
                        f"{self.path}: {place.name} has shape {place.shape}, model and {CONFIG} say {expected}"
                    )

    def _refuse_names(self, missing: list[str], left: list[str]) -> None:
        if missing or left:
            family = family_of(self.model.config).model_type
            raise TrineError(
                f"{self.path}: {CONFIG} says that modules {missing[:5]} of the {family} model have adapters, which the "
                f"file does not hold, and the file holds adapters of {left[:5]}, which it does not name; is it for "
                "another base?"
            )
        here = {name.rsplit(".", 1)[0] for name in self.views} | {_HEAD}
        for name in self.settings.described.get("modules_to_save") or []:
            if _inside(name, here) and not _inside(name, self.tensors):
                raise TrineError(f"{self.path}: module {name} of modules_to_save is not in the file")

    def _refuse_halves(self) -> None:
        """Every changed module has all its parts."""
        said = self.settings.described
        for module, parts in self.tensors.items():
            needed: set[str] = set()
            if parts.keys() & _LOW_RANK:
                needed = {"lora_A.weight", "lora_B.weight"}
                needed |= {_MAGNITUDE} if said.get("use_dora") else set()
                needed |= {"lora_B.bias"} if said.get("lora_bias") else set()
                needed = {"lora_embedding_A", "lora_embedding_B"} if module in self.tables else needed
            needed |= {_TOKENS} if self._token_ids(module) else set()
            if needed - parts.keys():
                raise TrineError(f"{self.path}: {module} lacks {', '.join(sorted(needed - parts.keys()))}")

    def _shape(self, module: str, kind: str, place: TensorPlace) -> tuple[int, ...]:
        """The shape that a tensor must have; raises `TrineError` where the model has no place for it."""
        if kind in _WHOLE:
            return self._shape_of_whole(module, kind, place)
        if module not in self.modules:
            raise TrineError(f"{self.path}: tensor {place.name} has no place in the model")
        rows, columns = self._linear(module).shape
        rank = self.settings.rank(module)
        if module in self.tables:
            shapes = {"lora_embedding_A": (rank, rows), "lora_embedding_B": (columns, rank)}
            if kind == _TOKENS:
                return len(self._token_ids(module)), columns
        else:
            shapes = {"lora_A.weight": (rank, columns), "lora_B.weight": (rows, rank)}
            if kind == _MAGNITUDE and self.settings.described.get("use_dora"):
                return (rows,)
            if kind == "lora_B.bias" and f"{module}.bias" in self.views:
                return (rows,)
        if kind not in shapes:
            raise TrineError(f"{self.path}: tensor {place.name} is of a kind that {module} cannot have")
        return shapes[kind]

    def _shape_of_whole(self, module: str, kind: str, place: TensorPlace) -> tuple[int, ...]:
        name = f"{module}.{kind}"
        if name not in self.views and not (module == _HEAD and kind == "weight"):
            raise TrineError(f"{self.path}: tensor {place.name} has no place in the model")
        if name != f"{self.embedding}.weight" and module != _HEAD:
            return tuple(self.views[name].shape)
        return (*place.shape[:1], self.model.config.width)  # another number of entries is another vocabulary

    def _token_ids(self, module: str) -> list[int]:
        """Ids of the rows that the adapter replaces (`trainable_token_indices`)."""
        said = self.settings.described.get("trainable_token_indices") or []
        if not isinstance(said, dict):  # of the input embeddings
            said = {self.embedding: said}
        said = next((ids for name, ids in said.items() if module == name or module.endswith(f".{name}")), [])
        if not said:
            return []
        rows = self._linear(module).shape[0]
        if max(said) >= rows:
            raise TrineError(
                f"{self.settings.place}: trainable_token_indices holds {max(said)}; there are {rows} tokens"
            )
        return list(said)

    # Merging

    def merged(self) -> Transformer:
        for module, parts in self.tensors.items():
            if module not in (self.embedding, _HEAD):
                for kind in parts.keys() & set(_WHOLE):
                    self.views[f"{module}.{kind}"].copy_(_read(parts[kind]))
                self._add(module, self._linear(module) if module in self.modules else None, parts)
        return self._with_tables(*self._new_tables())

    def _linear(self, module: str) -> Tensor:
        """The weight of `module` as [out, in]; a table as [entries, width]."""
        if module == _HEAD and f"{_HEAD}.weight" not in self.views:
            module = self.embedding
        view = self.views[f"{module}.weight"]
        return view.T if f"{module}.weight" in self.transposed else view

    def _add(self, module: str, weight: Tensor | None, parts: Parts) -> None:
        """Change `weight` [out, in], and the bias of `module`, in place by the low-rank parts."""
        if weight is None:
            return
        scale = self.settings.scale(module)
        if "lora_A.weight" in parts:
            weight.addmm_(*(_read(parts[f"lora_{each}.weight"]).to(weight) for each in "BA"), alpha=scale)
        if "lora_embedding_A" in parts:
            weight.addmm_(*(_read(parts[f"lora_embedding_{each}"]).T.to(weight) for each in "AB"), alpha=scale)
        if _MAGNITUDE in parts:
            set_row_norms(weight, _read(parts[_MAGNITUDE]).to(weight))
        if "lora_B.bias" in parts:
            self.views[f"{module}.bias"].add_(_read(parts["lora_B.bias"]).to(weight), alpha=scale)
        if _TOKENS in parts:
            weight[self._token_ids(module)] = _read(parts[_TOKENS]).to(weight)

    def _new_tables(self) -> tuple[Tensor, Tensor]:
        """Embeddings and output weights with the adapter; the same tensor where they stay tied."""
        table = self._linear(self.embedding)
        output = self._linear(_HEAD)
        inputs, outputs = self.tensors.get(self.embedding, {}), self.tensors.get(_HEAD, {})
        if not inputs and not outputs:
            return table, output
        tied, together = self.model.config.tied_embeddings, self._tie_again()
        saved = set(self.settings.described.get("modules_to_save") or [])
        whole = table if "weight" not in inputs else _read(inputs["weight"]).to(table)
        if "weight" in outputs:
            output = _read(outputs["weight"]).to(table)
        elif tied and not saved & {self.embedding, self.embedding.rsplit(".", 1)[-1]}:
            output = whole
        new_table, new_output = whole.clone(), output.clone()
        self._add(self.embedding, new_table, inputs)
        self._add(_HEAD, new_output, outputs)
        if tied and _TOKENS in inputs and _TOKENS not in outputs:  # PEFT ties these rows too
            new_output[self._token_ids(self.embedding)] = new_table[self._token_ids(self.embedding)]
        same = tied and (together or torch.equal(new_table, new_output))
        return (new_table, new_table) if same else (new_table, new_output)

    def _tie_again(self) -> bool:
        """Whether both ends change together (`ensure_weight_tying`); only whole tables can be followed exactly."""
        if not self.settings.described.get("ensure_weight_tying"):
            return False
        both = self.tensors.get(self.embedding, {}).keys() | self.tensors.get(_HEAD, {}).keys()
        if both & _LOW_RANK:
            raise TrineError(
                f"{self.settings.place}: ensure_weight_tying with adapters of the embeddings is not supported; "
                f"{how_to_ignore(['ensure_weight_tying'])}"
            )
        return True

    def _with_tables(self, table: Tensor, output: Tensor) -> Transformer:
        """The model with these embeddings and output weights, in a new one where their shape or tying changes."""
        config = self.model.config
        if table.shape != output.shape:
            raise TrineError(
                f"{self.path}: the adapter has {len(table)} tokens at the input and {len(output)} at the output"
            )
        new = replace(config, vocab_size=len(table), tied_embeddings=config.tied_embeddings and table is output)
        if new == config:
            self._linear(self.embedding).copy_(table)
            self._linear(_HEAD).copy_(output)
            return self.model
        state: dict[str, Any] = dict(self.model.named_parameters()) | {"embedding.weight": table}
        state |= {} if new.tied_embeddings else {"head.weight": output}
        with torch.device("meta"):
            model = Transformer(new, self.model.compute_dtype)
        model.load_state_dict({name: each.detach() for name, each in state.items()}, assign=True)
        return model.requires_grad_(True)
