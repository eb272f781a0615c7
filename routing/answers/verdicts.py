"""LLM-judge labels: a judge's verdicts on pairs of answers as preferences to train routers on.

RouteLLM labels 120,000 prompts so (GPT-4 as judge, arXiv 2406.18665, section 4.1). What to ask and how verdicts are
read is in `routing.answers.llm_judge` (`pairwise_prompt`, `parse_winner`); any lane can ask it. Ratings of single answers are
outcomes, not verdicts: `routing.answers.llm_judge.rating_quality`, then `routing.data.training_data.as_preferences`.
O(n), n battles.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from routing.answers.llm_judge import combine_orders, parse_winner
from routing.data.preferences import Preferences
from routing.errors import RoutingError


def from_verdicts(
    prompts: Sequence[str],
    model_a: Sequence[str],
    model_b: Sequence[str],
    verdicts: Sequence[str | float | None],
    swapped: Sequence[str | float | None] | None = None,
    datasets: Sequence[str] | None = None,
    max_unreadable: float = 0.1,
) -> Preferences:
    """Verdicts as battles; a battle without a readable verdict is left out.

    `verdicts`: the judge's texts, or win rates of model_a where they were read already (NaN: unreadable). `swapped`:
    verdicts on the same battles with the answers shown the other way round; the two are averaged, so that a judge's
    liking for the first place cancels. `datasets`: default "judge". Raises RoutingError for columns of unequal length,
    and where more than the share `max_unreadable` holds no verdict: then the judge was asked wrongly.
    """
    columns = [prompts, model_a, model_b, verdicts]
    columns += [column for column in (swapped, datasets) if column is not None]
    if len({len(column) for column in columns}) != 1:
        raise RoutingError(f"verdicts: columns of {', '.join(str(len(column)) for column in columns)} rows; one each")
    winner = _read(verdicts) if swapped is None else combine_orders(_read(verdicts), _read(swapped))
    readable = ~np.isnan(winner)
    if not readable.any() or 1 - readable.mean() > max_unreadable:
        raise RoutingError(
            f"verdicts: {len(winner) - readable.sum()} of {len(winner)} say neither A, B nor tie; ask the judge with"
            " `routing.answers.llm_judge.pairwise_prompt`, and leave it room to finish"
        )
    names = datasets if datasets is not None else ["judge"] * len(prompts)
    return Preferences(prompts, model_a, model_b, winner, names).select(readable)


def _read(verdicts: Sequence[str | float | None]) -> NDArray[np.float64]:
    return np.array([v if isinstance(v, float | int) else parse_winner(v) for v in verdicts], np.float64)
