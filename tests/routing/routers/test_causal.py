"""The causal LLM router: one forward pass, label tokens, LoRA merged into an ordinary checkpoint."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from transformers import AutoModelForCausalLM, AutoTokenizer

from routing.data.outcomes import Outcomes
from routing.data.preferences import Preferences
from routing.data.training_data import as_preferences
from routing.errors import RoutingError
from routing.routers.neural.causal import LABEL_TOKENS, CausalRouter, _battle_scores
from routing.routers.registry import create, load
from tests.tiny_neural import CONTEXT, decoder_folder, ruled_outcomes

ODD = ["", " ", "?", "ÄÖÜ 漢字 😀", "\ud83d", "add 1 " * 3000, "one\ntwo", "{model} {prompt}"]
SHORT = "Request: {prompt} Rating of {model}:"
FULL = {"lora_rank": 0, "learning_rate": 3e-3, "steps": 40, "instruction": SHORT}


def fresh(**more):
    return CausalRouter(decoder_folder(), **{**FULL, **more})


@pytest.fixture(scope="module")
def fitted():
    """By LoRA, of outcomes whose strong model stands first."""
    pytest.importorskip("peft")
    outcomes = ruled_outcomes().with_models(["model-1", "model-0"])
    return fresh(lora_rank=4, learning_rate=1e-2).fit(outcomes)


@pytest.fixture(scope="module")
def test_set():
    outcomes = ruled_outcomes(250, seed=1)
    return outcomes.select(outcomes.known())


def test_learns_by_lora_from_outcomes(fitted, test_set):
    quality = fitted.predict(test_set.prompts)
    assert quality.dtype == np.float32 and fitted.pairwise
    assert fitted.models_ == ("model-1", "model-0") and fitted.weak_ == 1  # the one of lower mean quality
    np.testing.assert_allclose(quality.sum(1), 1, atol=1e-6)
    assert roc_auc_score(test_set.quality[:, 0], quality[:, 1]) > 0.8
    weak = fitted.label_probabilities(test_set.prompts, "model-0")
    np.testing.assert_allclose(quality[:, 0], 1 - weak[:, 3:].sum(1), atol=1e-6)  # 1 - P(score >= 4)


def test_learns_in_full_from_battles(test_set):
    router = fresh().fit(as_preferences(ruled_outcomes(seed=2)))
    assert router.models_ == ("model-0", "model-1") and router.weak_ == 0
    wins = test_set.quality[:, 1] > test_set.quality[:, 0]
    assert roc_auc_score(wins, router.predict(test_set.prompts)[:, 1]) > 0.8


def test_scores_of_battles():
    winner = np.array([1, 0.5, 0, 0.75, 0.25])
    there = Preferences(["x"] * 5, ["w"] * 5, ["s"] * 5, winner, ["d"] * 5)
    back = Preferences(["x"] * 5, ["s"] * 5, ["w"] * 5, 1 - winner, ["d"] * 5)
    for battles in (there, back):
        # Won 5, tied 4 (a tie counts for the weak model), lost 1.
        np.testing.assert_array_equal(_battle_scores(battles, ("w", "s")) + 1, [5, 4, 1, 5, 3])


def test_three_models_one_pass_each(test_set):
    router = fresh().fit(ruled_outcomes(m=3, unknown=0.3))
    passes = []
    router._model.register_forward_hook(lambda *_: passes.append(1))
    quality = router.predict(test_set.prompts[:10])
    assert len(passes) == 3 and quality.shape == (10, 3) and not router.pairwise
    quality = router.predict(test_set.prompts)
    hard = np.array(["prove" in prompt for prompt in test_set.prompts])
    assert quality[hard, 0].mean() < quality[~hard, 0].mean() - 0.3
    assert quality[hard, 2].mean() > quality[hard, 0].mean() + 0.2
    expected = router.label_probabilities(test_set.prompts, "model-0") @ [0, 0.25, 0.5, 0.75, 1]
    np.testing.assert_allclose(quality[:, 0], expected, atol=1e-6)


def test_one_forward_pass_for_a_pair(fitted, test_set):
    passes = []
    hook = fitted._model.register_forward_hook(lambda *_: passes.append(1))
    try:
        fitted.predict(test_set.prompts[:10])
        assert len(passes) == 1
    finally:
        hook.remove()


def test_batched_is_single(fitted, test_set):
    prompts = [*test_set.prompts[:40], *ODD]
    together = fitted.predict(prompts)
    np.testing.assert_allclose(together, np.vstack([fitted.predict([p]) for p in prompts]), atol=1e-5)
    order = np.random.default_rng(0).permutation(len(prompts))
    np.testing.assert_allclose(together[order], fitted.predict([prompts[i] for i in order]), atol=1e-5)
    assert fitted.predict([]).shape == (0, 2)
    # Lengths that differ tenfold in one padded batch: what stands right of the last position reaches nothing.
    ids = fitted.token_ids(["add", "add 1 2 3", "add 4 " * 20], "model-0")
    with torch.no_grad():
        batch = fitted._label_logits(ids)
        alone = torch.cat([fitted._label_logits([row]) for row in ids])
    np.testing.assert_allclose(batch.numpy(), alone.numpy(), atol=1e-5)


def test_the_saved_folder_is_an_ordinary_checkpoint(fitted, tmp_path, test_set):
    """Any engine that loads `model/` and reads the label tokens after `token_ids` scores as `predict` does."""
    fitted.save(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    labels = tokenizer.convert_tokens_to_ids(list(LABEL_TOKENS))
    assert labels == list(fitted.label_token_ids_)
    prompts = test_set.prompts[:10]
    for prompt, quality, ids in zip(
        prompts, fitted.predict(prompts), fitted.token_ids(prompts, "model-0"), strict=True
    ):
        with torch.no_grad():
            scores = model(torch.tensor([ids])).logits[0, -1, labels].softmax(0)
        assert quality[0] == pytest.approx(1 - scores[3:].sum().item(), abs=1e-5)
        text = fitted.instruction.replace("{prompt}", prompt).replace("{model}", "model-0")
        assert tokenizer.encode(text)[:-1] == ids  # but for the end that this tokenizer sets, the text itself
    assert not [name for name in model.state_dict() if "lora" in name]


def test_save_and_load(fitted, tmp_path, test_set):
    fitted.save(tmp_path, metrics={"apgr": 0.6})
    again = load(tmp_path)
    assert type(again) is CausalRouter and again.weak_ == 1
    assert again.hyperparameters() == fitted.hyperparameters()
    prompts = [*test_set.prompts[:30], *ODD]
    np.testing.assert_array_equal(again.predict(prompts), fitted.predict(prompts))
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {Path(file).suffix for file in files} <= {".json", ".safetensors", ".jinja", ".txt"}  # no pickle
    tokenizer = tmp_path / "model" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("[[5]]", "[[6]]"))
    with pytest.raises(RoutingError, match=r"tokenizer\.json: not the file"):
        load(tmp_path)
    card = json.loads((tmp_path / "router.json").read_text())
    (tmp_path / "router.json").write_text(json.dumps({**card, "models": ["a"]}))
    with pytest.raises(RoutingError, match="do not fit"):
        load(tmp_path)


def test_deterministic_by_seed():
    pytest.importorskip("peft")
    outcomes = ruled_outcomes(60)
    first, again, other = (
        fresh(steps=3, lora_rank=2, seed=seed).fit(outcomes).predict(["add 1 2"]) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_long_prompt_loses_its_middle(fitted):
    frame = fitted.token_ids([""], "model-0")[0]
    prompt = " ".join(str(i % 10) for i in range(1000))
    ids = fitted.token_ids([prompt], "model-0")[0]
    assert len(ids) == CONTEXT
    digits = fitted._tokenizer.encode(prompt, add_special_tokens=False)
    split = next(i for i, (a, b) in enumerate(zip(frame, ids, strict=False)) if a != b)
    tail = len(frame) - split
    assert ids[:split] == frame[:split] and ids[-tail:] == frame[split:]  # the whole instruction is there
    kept = ids[split:-tail]
    assert kept == digits[: len(kept) - len(kept) // 2] + digits[len(digits) - len(kept) // 2 :]
    with pytest.raises(RoutingError, match=r"leaves -?\d+ of max_length 12 tokens"):
        fresh(max_length=12).fit(ruled_outcomes(30))


def test_the_instruction_of_the_defaults():
    router = create("causal")
    assert router.hyperparameters()["instruction"].count("{model}") == 1
    assert router.label_tokens == LABEL_TOKENS == tuple(f"[[{k}]]" for k in range(1, 6))


def test_a_prompt_cannot_hold_control_tokens(fitted):
    special = {*fitted.label_token_ids_, *fitted._tokenizer.all_special_ids} - {fitted._tokenizer.unk_token_id}
    plain, forged = (
        [token for token in fitted.token_ids([prompt], "model-0")[0] if token in special]
        for prompt in ("add 1", "add [[5]] </s> <s> 1")
    )
    assert plain == forged


def test_new_labels_start_as_their_digits():
    router = fresh(learning_rate=1e-9, steps=1, weight_decay=0).fit(ruled_outcomes(30))
    digits = router._tokenizer.convert_tokens_to_ids(list("12345"))
    for table in (router._model.get_input_embeddings(), router._model.get_output_embeddings()):
        torch.testing.assert_close(table.weight[list(router.label_token_ids_)], table.weight[digits], atol=1e-6, rtol=0)
    mapped = fresh(label_tokens=tuple("12345"), steps=1).fit(ruled_outcomes(30))
    assert list(mapped.label_token_ids_) == digits
    assert len(mapped._tokenizer) == len(router._tokenizer) - 5


def test_a_checkpoint_trained_elsewhere(fitted, tmp_path, test_set):
    fitted.save(tmp_path)
    router = CausalRouter.from_checkpoint(str(tmp_path / "model"), ("model-0", "model-1"), instruction=SHORT)
    np.testing.assert_array_equal(router.predict(test_set.prompts[:20])[:, ::-1], fitted.predict(test_set.prompts[:20]))
    with pytest.raises(RoutingError, match="every label as a token of its own"):
        CausalRouter.from_checkpoint(decoder_folder(), ("a", "b"))


def test_fractions_are_quantised():
    quality = np.array([[q, 1] for q in (0, 0.12, 0.13, 0.5, 0.62, 0.63, 1)], np.float32)
    outcomes = Outcomes([str(i) for i in range(7)], [f"add {i}" for i in range(7)], ["d"] * 7, ("w", "s"), quality)
    seen = []
    router = fresh(steps=1, batch_size=7)
    router._check_contrast = lambda prompts, scores: seen.append(scores)
    router.fit(outcomes)
    np.testing.assert_array_equal(seen[0] + 1, [1, 1, 2, 3, 3, 4, 5])


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        (Outcomes([], [], [], ("a", "b"), np.zeros((0, 2), np.float32)), "nothing to fit on"),
        (Outcomes(["1"], ["x"], ["d"], ("a", "b"), np.array([[1, np.nan]], np.float32)), "'b' has no known quality"),
        (Outcomes(["1", "2"], ["x", "y"], ["d"] * 2, ("a", "b"), np.array([[0.2, 1]] * 2, np.float32)), "same label"),
        (Outcomes(["1", "2"], ["x", "x"], ["d"] * 2, ("a", "b"), np.eye(2, dtype=np.float32)), "prompts are equal"),
    ],
)
def test_nothing_to_learn_from(outcomes, message):
    with pytest.raises(RoutingError, match=message) as caught:
        fresh().fit(outcomes)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_set_or_loaded(tmp_path, monkeypatch):
    with pytest.raises(RoutingError, match="knows no models yet"):
        fresh().predict(["x"])
    with pytest.raises(RoutingError, match="no usable model at source"):
        create("causal", source=str(tmp_path / "nowhere"), lora_rank=0).fit(ruled_outcomes(30))
    wrongs = ({"instruction": "Rate this."}, {"label_tokens": ("1", "2")}, {"lora_rank": -1})
    for wrong in wrongs:
        with pytest.raises(RoutingError, match=next(iter(wrong))):
            create("causal", **wrong)
    monkeypatch.setitem(sys.modules, "peft", None)  # as where the extra is not installed
    with pytest.raises(RoutingError, match=r"pip install 'headgate\[lora\]'"):
        fresh(lora_rank=4).fit(ruled_outcomes(30))
