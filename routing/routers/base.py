"""The contract of a router: expected quality per model, for a batch of prompts.

`fit` takes outcomes or preferences. A regressor starts with `outcomes = as_outcomes(data)` (a battle becomes a row that
knows its two sides), a pairwise router with `battles = self._start_pairs(data)` (golden labels of outcomes).
Legend: n prompts, m models.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from routing.data.outcomes import Outcomes
from routing.data.preferences import Preferences, relabelled
from routing.data.tiers import make_tiers, ratings, weakest_first
from routing.data.training_data import TrainingData, as_preferences
from routing.errors import RoutingError
from routing.features.cache import cached_structure
from routing.features.structure import STRUCTURE
from routing.text import find_frame

__all__ = ["FORMAT_VERSION", "Router", "TrainingData", "as_preferences", "check_models", "read_card"]
FORMAT_VERSION = 1
FORM_ROWS = 4000
"""Training prompts whose form is described in the card: means to .016 standard deviations, in .4 s."""


class Router(ABC):
    """A learned (or fixed) map from prompt to expected quality of every model.

    Hyperparameters are constructor arguments and stay untouched; `fit` sets attributes with a trailing underscore only,
    `models_` among them. A fitted router is saved as `router.json` + `weights.safetensors`: no pickle, ever.
    """

    name: ClassVar[str]
    """Registry name, as in a job file's `router:` and in `router.json`."""

    needs_training: ClassVar[bool] = True
    """False for baselines that a job can name without an artifact (`random`, `length`)."""

    pairwise: ClassVar[bool] = False
    """True where `predict` gives win rates (1 - p and p of a pair; with more models the mean rate of beating another)
    instead of qualities: their order is meant, their size is not, before a calibration."""

    models_: tuple[str, ...]

    @abstractmethod
    def fit(self, data: TrainingData) -> Self:
        """Learn from outcomes or preferences, whichever is given.

        Raises RoutingError for no rows, or a model without a single known quality.
        """

    @abstractmethod
    def predict(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Expected quality in [0, 1], shape (n, m), columns as in `models_`. Row i depends on prompt i alone."""

    def hyperparameters(self) -> dict[str, Any]:
        """Constructor arguments, JSON-safe, enough to build the same unfitted router: the attributes of their names."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def state(self) -> dict[str, NDArray[Any]]:
        """Fitted arrays by name; what `load_state` takes."""
        return {}

    def load_state(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Inverse of `state`. May raise KeyError or ValueError for arrays that are missing or misshapen."""
        if arrays:
            raise ValueError(f"unexpected arrays {', '.join(sorted(arrays))}")

    def save(self, directory: str | Path, metrics: Mapping[str, object] | None = None) -> None:
        """Write the artifact: weights, and `router.json` (class, version, models, fingerprint, metrics and so on)."""
        path = Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.ascontiguousarray(value) for name, value in self.state().items()}
        save_file(arrays or {"empty": np.zeros(1, np.float32)}, path / "weights.safetensors")
        (path / "weights.safetensors").chmod(0o644)  # safetensors makes it the owner's alone, whatever the umask
        card = {
            "format": FORMAT_VERSION,
            "router": self.name,
            "models": list(self.models_),
            "hyperparameters": self.hyperparameters(),
            "training_data": self.training_fingerprint_,
            "completion_tokens": dict(self.completion_tokens_),
            "form": {name: dict(figures) for name, figures in self.prompt_form_.items()},
            "weights_sha256": hashlib.sha256((path / "weights.safetensors").read_bytes()).hexdigest(),
            "metrics": dict(metrics or {}),
        }
        (path / "router.json").write_text(json.dumps(card, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Read an artifact of this class. Raises RoutingError where it is of another class, or damaged."""
        path = Path(directory)
        card = read_card(path)
        if card["router"] != cls.name:
            raise RoutingError(f"router artifact {path}: it holds a {card['router']!r} router, not {cls.name!r}")
        arrays = _read_weights(path / "weights.safetensors", card.get("weights_sha256"))
        try:
            router = cls(**card["hyperparameters"])
            router.models_ = tuple(card["models"])
            router.training_fingerprint_ = card.get("training_data", "")
            router.completion_tokens_ = dict(card.get("completion_tokens") or {})
            router.prompt_form_ = dict(card.get("form") or {})
            router.load_state(arrays)
        except (TypeError, KeyError, ValueError) as error:
            raise RoutingError(
                f"router artifact {path}: router.json and weights do not fit {cls.__name__} ({error})"
            ) from error
        return router

    training_fingerprint_: str = ""
    completion_tokens_: Mapping[str, float] = MappingProxyType({})
    """Model → mean output tokens in the training data, where it has them: what a bill expects before anything was asked."""
    prompt_form_: Mapping[str, Mapping[str, float]] = MappingProxyType({})
    """Column of `routing.features.structure.structure` → `mean` and `std` over the training prompts, without what all of them start
    and end with: what a later set of prompts is compared with (drift)."""

    def _start_fit(self, outcomes: Outcomes) -> NDArray[np.float64]:
        """Check `outcomes`, set `models_` and `training_fingerprint_`; the mean known quality per model, shape (m,)."""
        known = ~np.isnan(outcomes.quality)
        if not len(outcomes) or not outcomes.models:
            raise RoutingError(f"router {self.name!r}: nothing to fit on (no rows or no models)")
        for j, model in enumerate(outcomes.models):
            if not known[:, j].any():
                raise RoutingError(
                    f"router {self.name!r}: model {model!r} has no known quality; leave it out (`with_models`)"
                )
        self.models_ = outcomes.models
        self.training_fingerprint_ = outcomes.fingerprint()
        self.prompt_form_ = _form(outcomes.prompts)
        self.completion_tokens_ = _mean_tokens(outcomes)
        means: NDArray[np.float64] = np.nanmean(outcomes.quality.astype(np.float64), axis=0)
        return means

    def _start_pairs(self, data: TrainingData, models: Sequence[str] = (), n_tiers: int = 10) -> Preferences:
        """All battles of `data` (golden labels of outcomes); sets `models_` and the fingerprint.

        `models_` are `models`, or else the columns of the outcomes, or all models of the battles, weakest first by
        Bradley-Terry strength. A name "tier-0" (the strongest) to "tier-9" among `models` groups the models of the
        data into `n_tiers` tiers first; then all are tiers. Raises RoutingError for no rows, a model that is not
        there, a model without a single known quality, and outcomes in which no row knows two models.
        """
        if isinstance(data, Outcomes):
            self._start_fit(data)
        elif not len(data):
            raise RoutingError(f"router {self.name!r}: nothing to fit on (no battles)")
        battles = as_preferences(data)
        if not len(battles) and len(getattr(data, "models", ())) > 1:
            raise RoutingError(f"router {self.name!r}: nothing to fit on (no row knows two models)")
        known = data.models
        if any(name.startswith("tier-") and name not in known for name in models):
            tiers = make_tiers(ratings(battles), n_tiers)
            battles, known = relabelled(battles, tiers.names()), tuple(dict.fromkeys(tiers.names().values()))
        missing = [name for name in models if name not in known]
        if missing:
            raise RoutingError(
                f"router {self.name!r}: no model {missing[0]!r} in the data, which has {', '.join(known)}"
            )
        self.models_ = tuple(models) or (known if isinstance(data, Outcomes) else weakest_first(battles))
        if not isinstance(data, Outcomes):
            self.training_fingerprint_, self.prompt_form_ = data.fingerprint(), _form(data.prompts)
        return battles

    def _require_models(self) -> tuple[str, ...]:
        """`models_`, or a RoutingError that says how to come by them."""
        if not getattr(self, "models_", ()):
            how = "fit it or load an artifact" if self.needs_training else "give `models` or fit it"
            raise RoutingError(f"router {self.name!r}: it knows no models yet; {how}")
        return self.models_


def _mean_tokens(outcomes: Outcomes) -> dict[str, float]:
    """Model → mean of its known output tokens; models without any are left out."""
    if outcomes.completion_tokens is None:
        return {}
    known = zip(outcomes.models, outcomes.completion_tokens.T, strict=True)
    return {model: float(np.nanmean(tokens)) for model, tokens in known if not np.isnan(tokens).all()}


def _form(prompts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation of every structure count, over at most `FORM_ROWS` prompts spread over all of them."""
    frame = find_frame(prompts)
    some = [frame.inner(prompt) for prompt in prompts[:: math.ceil(len(prompts) / FORM_ROWS)]]
    counts = cached_structure(some).astype(np.float64)
    figures = zip(STRUCTURE, counts.mean(axis=0).tolist(), counts.std(axis=0).tolist(), strict=True)
    return {name: {"mean": mean, "std": std} for name, mean, std in figures}


def check_models(models: Sequence[str]) -> tuple[str, ...]:
    """A tuple of distinct names. Raises RoutingError for a bare string or a name given twice."""
    names = tuple(models)
    if isinstance(models, str) or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise RoutingError(f"router: models is {models!r}; it must be a list of distinct names, weakest first")
    return names


def _read_weights(path: Path, sha256: str | None) -> dict[str, NDArray[Any]]:
    """The arrays of an artifact. Raises RoutingError where the file is missing, altered or no safetensors file."""
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise RoutingError(
                f"router artifact {path}: not the weights router.json was written with; copy both files again"
            )
        arrays = load(data)
    except FileNotFoundError:
        raise RoutingError(
            f"router artifact {path.parent}: weights.safetensors is missing; copy the whole folder"
        ) from None
    except KeyError as error:
        raise RoutingError(
            f"router artifact {path}: numbers of type {error}, which NumPy lacks; train it again"
        ) from None
    except (OSError, SafetensorError) as error:
        raise RoutingError(f"router artifact {path}: not readable ({error})") from error
    arrays.pop("empty", None)
    return arrays


def read_card(directory: str | Path) -> dict[str, Any]:
    """`router.json` of an artifact. Raises RoutingError where it is missing, damaged or of a later format."""
    path = Path(directory) / "router.json"
    try:
        card: dict[str, Any] = json.loads(path.read_text())
        known = card["format"] <= FORMAT_VERSION
        if not (isinstance(card["models"], list) and isinstance(card["router"], str)):
            raise TypeError("models or router")
        if not isinstance(card["hyperparameters"], dict):
            raise TypeError("hyperparameters")
    except (FileNotFoundError, NotADirectoryError):
        raise RoutingError(
            f"router artifact {directory}: no router.json there; the README says how to train one"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RoutingError(f"router artifact {path}: not readable as a router card ({type(error).__name__})") from None
    if not known:
        raise RoutingError(
            f"router artifact {path}: written by a later version (format {card['format']}); update headgate"
        )
    return card
