# ruff: noqa: E501 (settings of one task stand together)
"""Local JSON tasks for lm_eval, English and Chinese, and what its class `hf` and ours make of one model.

python -m tests.lm_eval_tasks MODEL FOLDER      # prints every figure of both; FOLDER is the exported model
"""

import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

CHOICES = [
    ("The capital of France is", [" Paris", " the city of lights", " 巴黎", " Rome"], 0),
    ("def add(a, b):\n    return", [" a - b", " a + b", " None"], 1),
    ("Two and two is", [" four", " five", " a number that nobody knows"], 0),
    ("The cat sat on the", [" mat", " moon", " very old and very large table"], 0),
    ("Water is", [" wet.", " dry.", " a kind of stone."], 0),
]
CHOICES_ZH = [
    ("法国的首都是", ["巴黎", "一座灯光之城", " Paris", "罗马"], 0),
    ("今天天气很好，我们去", ["公园散步", "睡觉", "the park"], 0),
    ("一加一等于", ["二", "三", "没有人知道的一个数字"], 0),
    ("水是", ["湿的。", "干的。", "一种石头。"], 0),
    ("猫坐在", ["垫子上", "月亮上", "一张很旧很大的桌子上"], 0),
]
QUESTIONS = {"en": ["Say one word.", "Name a color:", "1, 2, 3,"], "zh": ["说一个词。", "写一种颜色：", "一、二、三、"]}
ROLLING = {
    "en": ["The cat sat on the mat. " * 4, "x", "It's 2024."],
    "zh": ["今天是个好日子。" * 5, "水", "我们去公园散步。"],
}


def write_tasks(folder: Path) -> list[dict[str, Any]]:
    """Files of records, and the configs of the tasks over them."""
    tasks = []
    for language, choices in (("en", CHOICES), ("zh", CHOICES_ZH)):
        records = [{"q": question, "choices": options, "gold": gold} for question, options, gold in choices]
        tasks.append(
            _task(folder, f"choice_{language}", records)
            | {"output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_choice": "{{choices}}", "doc_to_target": "{{gold}}",
               "target_delimiter": "", "metric_list": [{"metric": name} for name in ("acc", "acc_norm", "acc_bytes")]}
        )  # fmt: skip
        tasks.append(
            _task(folder, f"answer_{language}", [{"q": q, "a": "a"} for q in QUESTIONS[language]])
            | {"output_type": "generate_until", "doc_to_text": "{{q}}", "doc_to_target": "{{a}}", "metric_list": [{"metric": "exact_match"}],
               "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 12, "do_sample": False}}
        )  # fmt: skip
        tasks.append(
            _task(folder, f"rolling_{language}", [{"text": text} for text in ROLLING[language]])
            | {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
               "metric_list": [{"metric": "bits_per_byte"}, {"metric": "byte_perplexity"}]}
        )  # fmt: skip
    return tasks


def _task(folder: Path, name: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    file = folder / f"{name}.json"
    file.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    return {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}, "cache_dir": str(folder / "cache")},
            "test_split": "test"}  # fmt: skip


def evaluate(
    model: str, arguments: dict[str, Any], tasks: list[dict[str, Any]], *, chat: bool = False
) -> dict[str, Any]:
    """The figures of every task, and what was answered to every request."""
    from lm_eval import simple_evaluate

    if model == "trine":
        import trine.api.lm_eval  # noqa: F401  (registers the class)
    logging.disable(logging.WARNING)
    try:
        found = simple_evaluate(
            model, model_args=arguments, tasks=tasks, device="cpu", batch_size=1, apply_chat_template=chat,
            bootstrap_iters=0, verbosity="ERROR", log_samples=True,
        )  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)
    assert found is not None
    figures = {
        (task, name.split(",")[0]): value
        for task, of_task in found["results"].items()
        for name, value in of_task.items()
        if isinstance(value, float) and "stderr" not in name
    }
    answers = {
        task: [(each["doc_id"], each["resps"]) for each in samples] for task, samples in found["samples"].items()
    }
    return {"figures": figures, "answers": answers}


def main() -> None:
    ours, theirs = sys.argv[1:3]
    with tempfile.TemporaryDirectory() as folder:
        tasks = write_tasks(Path(folder))
        for chat in (False, True):
            mine = evaluate("trine", {"pretrained": ours, "precision": "fp32"}, tasks, chat=chat)
            their = evaluate("hf", {"pretrained": theirs, "dtype": "float32"}, tasks, chat=chat)
            print("chat template" if chat else "text", "task, figure, trine, hf")
            for key, value in their["figures"].items():
                print(*key, f"{mine['figures'][key]:.6f} {value:.6f}")
            same = [
                mine["answers"][name] == their["answers"][name]
                for name in their["answers"]
                if name.startswith("answer")
            ]
            print("generated texts equal:", same)


if __name__ == "__main__":
    main()
