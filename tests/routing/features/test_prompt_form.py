"""Form of a prompt, and the lines that a set shares."""

import numpy as np

from routing.features.boilerplate import MIN_PROMPTS, find_boilerplate, without_boilerplate
from routing.features.prompt_form import FORM, prompt_form

ODD = ["", " ", "?", "ÄÖÜ 漢字 😀", "\ud83d", "x" * 20000, "9" * 400, "one\ntwo", "\x00"]


def test_form_is_finite_and_row_by_row():
    rows = prompt_form(ODD)
    assert rows.shape == (len(ODD), len(FORM))
    assert np.isfinite(rows).all()
    np.testing.assert_array_equal(rows, np.vstack([prompt_form([text]) for text in ODD]))
    assert prompt_form([]).shape == (0, len(FORM))


def test_form_says_what_is_there():
    text = "Tom has 1,250.5 apples. Which is NOT true of each day?\nA. 10 apples\nB. a pear, not an apple\nAnswer:"
    form = dict(zip(FORM, prompt_form([text])[0], strict=True))
    assert np.isclose(form["log largest number"], np.log1p(1250.5))
    assert np.isclose(form["log sentences"], np.log1p(2))
    assert form["options / 4"] == 0.5
    assert form["share of options with numbers"] == 0.5
    assert form["stem ends in ?"] == 1
    assert np.isclose(form["log negations"], np.log1p(1))  # of the stem alone
    assert np.isclose(form["log rates"], np.log1p(1))
    assert prompt_form(["no question"])[0][FORM.index("options / 4")] == 0


def test_boilerplate():
    shots = "Question: two and two?\nAnswer with one letter, and nothing else.\n\nQuestion: one and one?\nB\n\n"
    prompts = [
        f"{shots}Question {i} asks how {i} birds fly\nAnswer with one letter, and nothing else." for i in range(40)
    ]
    digests = find_boilerplate(prompts)
    inner = without_boilerplate(prompts, digests)
    assert inner == [f"Question {i} asks how {i} birds fly" for i in range(40)]
    assert without_boilerplate(inner, digests) == inner
    assert without_boilerplate([shots.strip()], digests) == [shots.strip()]  # nothing would be left
    assert without_boilerplate(ODD, digests) == ODD
    assert not len(find_boilerplate(prompts[: MIN_PROMPTS - 1]))
    assert not len(find_boilerplate(prompts[:1] * 100))  # one prompt, however often
