"""SPDX expressions: a choice at OR, both sides of AND, an exception permits more."""

import pytest

from trine.data.licenses import allows, stated_license


@pytest.mark.parametrize(
    "expression, answer",
    [
        ("MIT", True),
        ("mit", True),
        ("GPL-3.0-only", False),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only AND MIT", False),
        ("MIT AND Apache-2.0", True),
        ("MIT AND (GPL-3.0-only OR Apache-2.0)", True),
        ("GPL-3.0-only OR MIT AND GPL-2.0-only", False),  # AND binds more tightly
        ("(GPL-3.0-only OR MIT) AND Apache-2.0", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0 OR MIT", True),
        ("Apache-2.0+", True),  # that version or a later one: that version is allowed
        ("LGPL-2.1+", True),
        ("LGPL-2.1-or-later", True),
        ("LGPL-2.1-only", False),
        ("mit or apache-2.0", True),
    ],
)
def test_known_expressions(expression: str, answer: bool) -> None:
    assert allows(expression, ("MIT", "Apache-2.0", "LGPL-2.1-or-later")) is answer


@pytest.mark.parametrize(
    "expression",
    ["MIT OR", "OR MIT", "(MIT", "MIT)", "MIT Apache-2.0", "()", "see LICENSE.txt, please", "MIT WITH", "§"],
)
def test_what_is_no_expression_has_no_answer(expression: str) -> None:
    assert allows(expression, ("MIT",)) is None


@pytest.mark.parametrize("short, long", [("GPL-2.0", "GPL-2.0-only"), ("GPL-2.0+", "GPL-2.0-or-later")])
def test_older_names_are_those_of_today(short: str, long: str) -> None:
    assert allows(short, (long,)) and allows(long, (short,))


@pytest.mark.parametrize(
    "text, expression",
    [
        ("#!/usr/bin/env python\n# SPDX-License-Identifier: MIT OR Apache-2.0\r\nx", "MIT OR Apache-2.0"),
        ("/* SPDX-License-Identifier: (MIT OR ISC) */", "(MIT OR ISC)"),
        ("<!-- SPDX-License-Identifier: CC0-1.0 -->", "CC0-1.0"),
        ("# SPDX-License-Identifier: MIT\n# SPDX-License-Identifier: ISC OR 0BSD", "(MIT) AND (ISC OR 0BSD)"),
        ("x = 1\n", ""),
        ("\n" * 5000 + "# SPDX-License-Identifier: MIT", ""),
    ],
)
def test_a_texts_head_may_state_its_licence(text: str, expression: str) -> None:
    assert stated_license(text) == expression
