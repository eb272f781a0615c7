"""What a router is trained on: one or several sets, outcomes and preferences, mixed by weight, contaminated prompts left out.

Outcomes are narrowed to the pair where one is named. Battles between other models than the pair become battles of two classes of
models (RouteLLM's tiers): the strong tiers against the weak ones. Legend: t training rows, n test rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jobs.errors import InputError, SpecError
from jobs.evaluation.results import Overlap
from jobs.evaluation.sources import find_model, model_matches, read_training_set
from routing.data.contamination import benchmark_similarity, contaminated
from routing.data.outcomes import Outcomes
from routing.data.tiers import make_tiers, ratings
from routing.data.training_data import TrainingData, as_preferences, mix
from routing.errors import RoutingError
from routing.features.registry import make_features

CLASSES = ("weak", "strong")
N_TIERS = 10
FEATURES = {"kind": "hashed", "n_features": 2**14}
"""What prompts are compared by."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How sets become training data."""

    outcomes: tuple[str, ...] = ()
    preferences: tuple[str, ...] = ()
    either: tuple[str, ...] = ()
    """Paths whose columns say what they are (`evaluate --train`)."""
    weights: tuple[float, ...] = ()
    """One per set, in the order outcomes, preferences, either; none: all 1."""
    weak: str | None = None
    strong: str | None = None
    """Names as typed; both or neither."""
    tiers: str = "0,1:2"
    """Strong tiers, colon, weak tiers; 0 is the strongest. RouteLLM's own choice."""
    all_battles: bool = False
    """Keep every battle and model (a pairwise router that was told its `models`)."""
    seed: int = 0
    allow_code: bool = False

    @property
    def paths(self) -> tuple[str, ...]:
        return (*self.outcomes, *self.preferences, *self.either)


def gather(options: TrainingOptions) -> tuple[TrainingData, list[str]]:
    """All sets as one, and notes on what was done to them. Raises InputError, SpecError, StoreError."""
    if options.weights and len(options.weights) != len(options.paths):
        raise SpecError(f"--weights: {len(options.weights)} weights for {len(options.paths)} sets; give one for each")
    kinds = (
        ["outcomes"] * len(options.outcomes) + ["preferences"] * len(options.preferences) + [""] * len(options.either)
    )
    notes: list[str] = []
    sets: list[TrainingData] = []
    for path, kind in zip(options.paths, kinds, strict=True):
        data = read_training_set(path, kind, options.allow_code)
        sets.append(_narrowed(data, path, options, notes))
    outcomes = [each for each in sets if isinstance(each, Outcomes)]
    battles = [as_preferences(each) for each in sets] if len(outcomes) < len(sets) else []
    weights = options.weights or (1.0,) * len(sets)
    if len(sets) == 1 and weights == (1.0,):
        return sets[0], notes
    try:
        if battles:
            return mix(battles, weights, options.seed), notes
        return mix(outcomes, weights, options.seed), notes
    except RoutingError as error:
        raise SpecError(f"--weights: {error}") from None


def _narrowed(data: TrainingData, path: str, options: TrainingOptions, notes: list[str]) -> TrainingData:
    """The pair's columns or battles, named as typed by the user of the pair; everything where no pair is named."""
    weak, strong = options.weak, options.strong
    if isinstance(data, Outcomes):
        if weak is None or strong is None:
            return data
        pair = [
            find_model(data.models, name, f"{flag} in {path}")
            for flag, name in (("--weak", weak), ("--strong", strong))
        ]
        return data.with_models(pair)
    if options.all_battles:
        return data
    if weak is not None and strong is not None:
        found = [model_matches(data.models, name) for name in (weak, strong)]
        if all(len(names) == 1 for names in found):
            return data.between([names[0] for names in found])
    if weak is None and len(data.models) == 2:
        return data
    top, low = parse_tiers(options.tiers)
    tiers = make_tiers(ratings(data), N_TIERS)
    try:
        classes = tiers.classes(data, top, low, CLASSES)
    except RoutingError as error:
        raise InputError(f"{path}: {error}; choose others with --tiers STRONG:WEAK") from None
    names = [", ".join(name for number in numbers for name in tiers.groups[number]) for numbers in (top, low)]
    notes.append(
        f"{path}: {len(classes):,} of {len(data):,} battles are strong class ({names[0]}) against weak class ({names[1]})"
    )
    return classes


def parse_tiers(text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`0,1:2` → ((0, 1), (2,)). Raises SpecError."""
    try:
        top, low = ([int(number) for number in side.split(",")] for side in text.split(":"))
    except ValueError:
        raise SpecError(
            f"--tiers: {text!r}; write the strong tiers, a colon and the weak tiers, such as 0,1:2"
        ) from None
    return tuple(top), tuple(low)


def without_contaminated(data: TrainingData, test_prompts: Sequence[str]) -> tuple[TrainingData, Overlap]:
    """(training data without prompts too near a test prompt, how near they were).

    Dropped is what equals a test prompt (case and white space apart) or has a cosine of .95 with one; `similarity` is RouteLLM's
    benchmark-data similarity, of what is kept. Vectors are hashed n-grams: they find the same wording, not a paraphrase, in
    milliseconds a prompt. Raises InputError where nothing is left.
    """
    features = make_features(FEATURES)
    barred = {_plain(prompt) for prompt in test_prompts}
    distinct = list(dict.fromkeys(data.prompts))
    near = contaminated(distinct, list(dict.fromkeys(test_prompts)), features)
    dropped = {prompt for prompt, is_near in zip(distinct, near, strict=True) if is_near or _plain(prompt) in barred}
    keep = np.array([prompt not in dropped for prompt in data.prompts], np.bool_)
    kept = data if keep.all() else data.select(keep)
    if not len(kept):
        raise InputError("every training prompt is a test prompt, or nearly so; train on another set")
    similarity = benchmark_similarity(list(dict.fromkeys(kept.prompts)), test_prompts, features)
    return kept, Overlap(int((~keep).sum()), similarity)


def _plain(prompt: str) -> str:
    return " ".join(prompt.lower().split())
