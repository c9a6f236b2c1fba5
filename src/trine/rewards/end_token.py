"""Trained with the end token = scored with it: a reward model whose tokenizer ends texts otherwise is refused."""

from trine.model.heads import ScoreModel
from trine.runtime.errors import TrineError
from trine.tokenizer.text_format import answer_format
from trine.tokenizer.tokenizer import Tokenizer


def check_end_token(model: ScoreModel, tokenizer: Tokenizer) -> None:
    """Raise `TrineError` unless texts end with the token at whose place `model` was trained to be read.

    Models that do not say which one that is, as those of other tools, are taken as they are.
    """
    if model.end_token is None:
        return
    found = tokenizer.name_of(answer_format(tokenizer, model.form).end_id)
    if found != model.end_token:
        raise TrineError(
            f"the reward model was trained to be read at the end token {model.end_token!r}, and its tokenizer in "
            f"{tokenizer.files.place} ends a {'text' if model.form == 'text' else 'message'} with {found!r}: its "
            "scores would mean nothing. Put the tokenizer and chat template that it was trained with into its folder"
        )
