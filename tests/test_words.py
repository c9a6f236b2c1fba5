"""The code, its messages and its pages use the field's words: those they once used instead are not found.

Each pattern stands for a word that was replaced; `INSTEAD` says by what. `EXCEPT` are the places where it may stand.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("src", "docs")
PAGES = ("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "bench/README.md")
KINDS = {".py", ".md", ".yaml", ".j2", ".cpp", ".h"}

INSTEAD = {
    r"\bDrawn\b|\bdrawn (token|action|policy|and|/|with)": "sampled",
    r"(?i)likeliest": "most likely; greedy; deterministic policy",
    r"(?i)(?<!not )\bguess|\bMOST_GUESSED": "draft tokens, prompt-lookup speculative decoding",
    r"(?i)\bjudge[sd]?\b|\bjudge_|_judge\b": "held-out reward model (a judge is an LLM that judges)",
    r"(?i)\bcomparisons?\b|\bstages?[.:] ?compare\b|`compare`": "preferences, preference pairs",
    r"\bcutting\b(?! of)": "packing",
    r"\blam\b": "gae_lambda",
    r"\b(value_clip|dual_clip)\b|`clip`|\bclip=": "clip_range",
    r"\blength_(penalty|score)\b": "missing_eos_penalty, missing_eos_score",
    r"kl\.least|\bleast:|\bleast=": "kl.min_coefficient",
    r"\bresponse_tokens\b": "max_new_tokens",
    r"\b(batch|minibatch|micro_batch)[_-](prompts|rows|pairs)\b": "batch_size, minibatch_size, micro_batch_size",
    r"(?i)\b(most|largest|least|smallest)_(?!common\b)\w": "max_, min_",
    r"[Ee]ngine\.score\b": "Engine.log_probs",
    r"\bdef identity\b|\.identity\(": "describe_batch",
    r"surely[_ ]whole": "complete_episodes",
    r"\bSight\b|\bLesson\b|\bturn_heads\b": "attention mask and positions; training batch; apply_rotary",
    r"\b(choosing|finding|opening)\.py|stages\.(finding|opening)": "sampler; catalog/locating, catalog/loading",
    r"\badvantages_of\b": "one meaning each: compute_advantages, gae_of_responses",
    r"(?i)\bthe dial\b|\bone dial\b|\bthe house\b|\bfloors\b|\ba floor\b": "--depth; architecture; layers",
    r"(?i)numbers that are none|\bhears? of\b|where it can be had|\bis heard\b|begin anew": "plain sentences",
    r"(?i)loss is content|critic that knows nothing|goes on with, each": "margin; critic only; greedily",
    r"(?i)make the rest again|made again in the backward": "recomputed in the backward pass",
    r"(?i)sureness|the better told|how weights move|when to look": "confidence; optimizer and schedule; evaluation",
    "房屋|旋钮|突跳|影片|每个半分钟|玩与学|模型仓库": "架构、规模参数、尖峰、视频、每次约半分钟、交互与学习、Hub",
}

# (file, what may stand in it, why)
EXCEPT = (
    ("src/trine/config/renamed.py", "", "the table of the names that were"),
    ("src/trine/model/config_keys.py", "length_penalty", "a key of generation in transformers"),
    ("src/trine/records.py", "judge", "who gave a judgement: a person, or an LLM that judges"),
    ("src/trine/data/judgement", "judge", "the same, in a file"),
    ("src/trine/stages/preferences/", "udged", "a judgement beside the scores of its answers"),
)


def scanned() -> list[Path]:
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")) if path.suffix in KINDS]
    return [*files, *(ROOT / page for page in PAGES)]


def allowed(place: str, found: str) -> bool:
    return any(place.startswith(path) and word in found for path, word, _ in EXCEPT)


@pytest.mark.parametrize("pattern", INSTEAD)
def test_words_that_were_replaced_are_not_used(pattern: str) -> None:
    hits = []
    for path in scanned():
        place = path.relative_to(ROOT).as_posix()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            hits += [f"{place}:{number}: {m[0]}" for m in re.finditer(pattern, line) if not allowed(place, m[0])]
    assert hits == [], f"say {INSTEAD[pattern]}"
