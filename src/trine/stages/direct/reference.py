"""Log-probabilities of the reference, taken once and kept beside the data.

The reference is what the run starts from, adapters that were merged into it included: the policy itself before its
first update, so that no second model is held in memory. What is kept is known by a fingerprint of what it was computed
from: weights, token ids (so template and tokenizer too), which of them share a row, and the arithmetic. Where the
fingerprint is another one, or the folder damaged or incomplete, they are computed anew, which is said.

    .FILE.reference-KEY/    log_probs.safetensors, and reference.json with fingerprint and checksum

KEY is of weights, arithmetic and rows, so that runs from several models keep theirs side by side.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trine.engine.weights_name import name_weights
from trine.model.transformer import Transformer
from trine.runtime.distributed import World
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, sha256_of, sha256_of_file, write_folder, write_json
from trine.runtime.progress import progress_bar, say
from trine.stages.direct.log_probs import AnswerLogProbs, answer_log_probs
from trine.stages.direct.plan import Plan

TENSORS, RECORD = "log_probs.safetensors", "reference.json"


@dataclass(frozen=True)
class ReferenceLogProbs:
    """Of every item: log-probabilities of its answers [n, answers] and, for KTO, of the mismatched one [n]; float64."""

    answers: Tensor
    mismatched: Tensor | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {"answers": self.answers} | ({} if self.mismatched is None else {"mismatched": self.mismatched})


class ReferenceModel:
    """The policy before its first update, as what gives (or has given) the reference's log-probabilities."""

    def __init__(self, model: Transformer, world: World, *, share_prompt: bool) -> None:
        self.model, self.world, self.share_prompt = model, world, share_prompt
        self.weights = name_weights(dict(model.named_parameters()))

    def log_probs(self, plan: Plan, name: str, folders: Sequence[Path]) -> ReferenceLogProbs:
        """Of all items of `plan`, which were read from the file `name`; every process calls this.

        They are kept in the first of `folders` that can be written: beside the file, or else in the run folder.
        """
        key = sha256_of(self.weights, *self._arithmetic(plan))[:12]
        places = [folder / f".{name}.reference-{key}" for folder in folders]
        found = self._kept(places, plan)
        if self.world.all_reduce_max({"missing": float(found is None)})["missing"]:
            found = self._computed(plan, name)
            if self.world.is_main:
                _keep(places, found, self._fingerprint(plan))
        assert found is not None
        return found

    def _arithmetic(self, plan: Plan) -> list[str]:
        """What else than weights and ids decides the bits."""
        device, dtype = self.model.output_weight.device, self.model.compute_dtype
        version = (torch.__version__, str(torch.get_num_threads()), device.type, str(dtype))
        rows = "segments" if self.share_prompt else "starts"
        return [*version, rows, str(self.world.size), str(plan.micro_batch_size), str(plan.seed)]

    def _fingerprint(self, plan: Plan) -> str:
        rows = [
            str([plan.items[index].prompt, plan.items[index].answers, plan.mismatches and plan.mismatches[index]])
            for step in plan.steps
            for index in step
        ]
        return sha256_of(self.weights, *self._arithmetic(plan), str(plan.steps), *rows)

    def _kept(self, places: Sequence[Path], plan: Plan) -> ReferenceLogProbs | None:
        for place in (place for place in places if place.exists()):
            try:
                found = _read(place, self._fingerprint(plan))
            except (TrineError, OSError, ValueError, KeyError, TypeError) as error:
                reason = str(error)
            except Exception as error:  # safetensors has an error of its own, in Rust
                reason = f"{type(error).__name__}: {error}"
            else:
                say(f"dpo: the reference's log-probabilities are those of {place}")
                return found
            say(f"dpo: {place} is computed anew: {reason}", style="yellow")
        return None

    @torch.no_grad()
    def _computed(self, plan: Plan, name: str) -> ReferenceLogProbs:
        """Each process reads its share of every step, in the rows that it will be trained in."""
        width = len(plan.items[0].answers)
        table = torch.zeros(len(plan.items), width + 1, dtype=torch.float64)
        module = AnswerLogProbs(self.model)
        device = self.model.output_weight.device
        with progress_bar(f"reference of {name}", len(plan.steps)) as bar:
            for step in plan.steps:
                for batch in plan.micro_batches(step, self.world):
                    own = [place for place, weight in enumerate(batch.weights) if weight]
                    sums = answer_log_probs(module, plan.groups(batch), device, share_prompt=self.share_prompt)
                    found = [sums.view(-1, width)]
                    if plan.mismatches is not None:
                        found.append(answer_log_probs(module, plan.mismatched_groups(batch), device).view(-1, 1))
                    rows = torch.cat(found, 1).to("cpu", torch.float64)
                    table[[batch.items[place] for place in own], : rows.shape[1]] = rows[own]
                bar.advance_or_stop()
        whole = self.world.all_gather(table.to(device)).view(self.world.size, *table.shape).sum(0).cpu()
        return ReferenceLogProbs(
            whole[:, :width].contiguous(), whole[:, width].contiguous() if plan.mismatches is not None else None
        )


def _read(place: Path, fingerprint: str) -> ReferenceLogProbs:
    """Raises `TrineError` where the folder is not what is asked for, or not what was written."""
    record: dict[str, Any] = read_json(place / RECORD)
    if record["fingerprint"] != fingerprint:
        raise TrineError("it is of other records")
    if sha256_of_file(place / TENSORS) != record["sha256"]:
        raise TrineError(f"{TENSORS} is damaged")
    return ReferenceLogProbs(**load_file(place / TENSORS))


def _keep(places: Sequence[Path], found: ReferenceLogProbs, fingerprint: str) -> None:
    def fill(aside: Path) -> None:
        save_file(found.tensors, aside / TENSORS)
        write_json(aside / RECORD, {"fingerprint": fingerprint, "sha256": sha256_of_file(aside / TENSORS)})

    for place in places:
        aside = place.with_name(f"{place.name}.{os.getpid()}")  # several runs from one model may be at it
        try:
            write_folder(aside, fill)
        except TrineError as error:
            reason = error
            continue
        shutil.rmtree(place, ignore_errors=True)
        try:
            aside.replace(place)
        except OSError:  # another run has written the same in this moment
            shutil.rmtree(aside, ignore_errors=True)
        say(f"dpo: the reference's log-probabilities are kept in {place}")
        return
    say(f"dpo: the reference's log-probabilities are not kept: {reason}", style="yellow")
