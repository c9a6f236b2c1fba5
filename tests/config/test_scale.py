"""One number gives a whole plan; what is named wins and the rest follows it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from trine.config.base import OptimizerConfig
from trine.config.loading import validated
from trine.config.scale import moved
from trine.config.text import ModelShape, PretrainConfig
from trine.model.config import gpt2_config, qwen3_config
from trine.runtime.errors import TrineError


def plan(**values: Any) -> PretrainConfig:
    return PretrainConfig(out=Path("runs/x"), tokenizer=Path("runs/t"), **values)


def test_depth_12_is_the_shape_of_gpt2_124m() -> None:
    shape = plan(depth=12).model
    assert (shape.layers, shape.width, shape.heads, shape.context) == (12, 768, 12, 1024)


@pytest.mark.parametrize(
    "depth, width, context, tokens, batch_tokens, rate_rest",
    [
        (4, 256, 512, 62_914_560, 2**16, 0.003),
        (6, 384, 512, 212_336_640, 2**17, 0.00245),
        (12, 768, 1024, 1_698_693_120, 2**18, 0.00173),
        (20, 1280, 2048, 7_864_320_000, 2**19, 0.00134),
    ],
)
def test_the_numbers_that_follow_from_a_depth(
    depth: int, width: int, context: int, tokens: int, batch_tokens: int, rate_rest: float
) -> None:
    """Worked by hand from the rules in the module's docstring; 64 is the width of a head."""
    config = plan(depth=depth)
    assert (config.model.width, config.model.heads, config.model.context) == (width, width // 64, context)
    assert (config.row_tokens, config.tokens) == (context, tokens)
    assert config.batch_size * config.row_tokens == batch_tokens
    assert config.micro_batch_size * config.row_tokens == 8192
    assert (config.optimizer.learning_rate, config.optimizer.learning_rate_rest) == (0.02, rate_rest)


def test_adamw_learns_slower_the_wider_and_faster_the_larger_the_batch() -> None:
    def rate(**values: Any) -> float:
        return plan(optimizer={"kind": "adamw"}, **values).optimizer.learning_rate

    assert rate(depth=12) == 6e-4
    assert rate(depth=12, model={"width": 4 * 768}, batch_size=256) == 3e-4
    assert rate(depth=12, batch_size=256 // 4) == 3e-4


@pytest.mark.parametrize("make", [gpt2_config, qwen3_config])
def test_blocks_are_counted_as_the_model_counts_them(make: Any) -> None:
    """12 L w^2 is the model without its tables, norms and biases: within one percent."""
    config = plan(depth=12, tokens_per_parameter=1.0)
    shape = make(vocab_size=1, context=1, layers=12, width=768, heads=12)
    assert config.tokens == pytest.approx(shape.parameter_count, rel=0.01)


def test_what_is_named_wins_and_the_rest_follows_it() -> None:
    config = plan(depth=6, model={"width": 512}, row_tokens=128, optimizer={"learning_rate": 0.01})
    assert (config.model.layers, config.model.width, config.model.heads) == (6, 512, 8)
    assert (config.row_tokens, config.batch_size * 128, config.micro_batch_size) == (128, 2**17, 64)
    assert config.tokens == 20 * 12 * 6 * 512**2
    assert config.optimizer.learning_rate == 0.01
    assert config.optimizer.learning_rate_rest == pytest.approx(0.003 / 2**0.5, rel=1e-2)


def test_a_shorter_horizon_takes_a_smaller_batch() -> None:
    whole, short = plan(depth=12), plan(depth=12, tokens=1_698_693_120 // 2**6)
    assert short.batch_size == whole.batch_size // 4  # 2^(6 x 0.383) = 4.9, and the nearest power of two is 4
    assert plan(depth=12, tokens_per_parameter=40).tokens == 2 * whole.tokens


def test_a_batch_of_few_rows_goes_through_the_model_at_once() -> None:
    assert plan(depth=12, batch_size=3).micro_batch_size == 3


def test_a_width_that_64_does_not_divide_has_heads_that_divide_it() -> None:
    assert plan(depth=4, model={"width": 200}).model.heads == 2


def test_configs_as_values_count_only_what_they_name() -> None:
    config = plan(depth=6, model=ModelShape(family="gpt2"), optimizer=OptimizerConfig(beta2=0.9))
    assert (config.model.family, config.model.width, config.optimizer.beta2) == ("gpt2", 384, 0.9)


def test_without_a_depth_nothing_is_derived() -> None:
    assert plan().model == ModelShape() and plan().tokens == 100_000_000


def test_the_resolved_config_given_back_is_the_same_plan() -> None:
    config = plan(depth=6, batch_size=7)
    again = PretrainConfig.model_validate(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"))))
    assert again == config


@pytest.mark.parametrize("values", [{"depth": "deep"}, {"depth": -1}, {"depth": 6, "model": {"width": "wide"}}])
def test_nonsense_is_refused_by_name(values: dict[str, Any]) -> None:
    with pytest.raises(TrineError, match=r"deep|-1|wide"):
        validated(PretrainConfig, {"out": "a", "tokenizer": "b", **values}, "here")


RECIPE = {
    "depth": 12, "row_tokens": 128, "batch_size": 256, "micro_batch_size": 32, "epochs": 1.0,
    "optimizer": {"kind": "adamw", "learning_rate": "5e-4", "weight_decay": 0.1},
}  # fmt: skip


def test_a_recipe_at_its_own_depth_is_what_it_says() -> None:
    assert plan(**moved(RECIPE, 12)) == plan(**RECIPE)


def test_a_recipes_own_figures_are_taken_along_by_the_rules() -> None:
    """Depth 6: an eighth of the blocks' parameters, so of the horizon; half the batch; 5e-4 x sqrt(2) x sqrt(1/2)."""
    config = plan(**moved(RECIPE, 6))
    assert (config.model.layers, config.model.width, config.model.heads) == (6, 384, 6)
    assert (config.epochs, config.batch_size, config.micro_batch_size, config.row_tokens) == (0.125, 128, 32, 128)
    assert config.optimizer.learning_rate == pytest.approx(5e-4)
    assert config.optimizer.weight_decay == 0.1


def test_what_a_recipe_counts_in_steps_shrinks_with_the_steps() -> None:
    """Depth 6: an eighth of the tokens in batches half the size are a quarter of the steps."""
    counted = {"loop": {"evaluate_every": 5000, "save_every": 5000}}
    counted |= {"optimizer": RECIPE["optimizer"] | {"warmup_steps": 1000}}  # type: ignore[operator]
    config = plan(**moved(RECIPE | counted, 6))
    assert (config.optimizer.warmup_steps, config.loop.evaluate_every, config.loop.save_every) == (250, 1250, 1250)


def test_a_small_recipe_keeps_whole_rows() -> None:
    config = plan(**moved(RECIPE | {"batch_size": 1, "tokens": 1000}, 4))
    assert (config.batch_size, config.micro_batch_size) == (1, 1)
    assert config.tokens == round(1000 / 27)
