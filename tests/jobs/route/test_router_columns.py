"""Which column of a router's prediction belongs to which model of a job: by alias, by name, by mapping, or refused."""

import pytest

from jobs.route.score.router import router_columns
from jobs.spec.loader import parse_spec
from routing.errors import RoutingError
from routing.routers.registry import create


def job(names, **more):
    """A job with these aliases, weakest first; the provider knows each as `provider/<alias>`."""
    models = {name: {"engine": "openai", "model": f"provider/{name}"} for name in names}
    ladder = {"weak": names[0], "strong": names[1]} if len(names) == 2 else {"ladder": list(names)}
    data = {
        "input": {"path": "in", "prompt": "q"},
        "output": "out",
        "router": "random",
        "models": models,
        **ladder,
        "policy": {"strong_share": 0.5} if len(names) == 2 else {"budget_usd": 1},
    }
    return parse_spec({**data, **more})


def router(*models):
    return create("random", models=models)


def test_by_alias_provider_name_and_mapping():
    assert router_columns(router("big", "small"), job(["small", "big"])) == [1, 0]
    assert router_columns(router("x", "provider/big", "provider/small"), job(["small", "big"])) == [2, 1]
    mapped = job(["small", "big"], router_models={"small": "mixtral", "big": "gpt-4"})
    assert router_columns(router("gpt-4", "claude", "mixtral"), mapped) == [2, 0]
    # A mapping wins over a model of the alias's own name.
    over = job(["small", "big"], router_models={"big": "gpt-4"})
    assert router_columns(router("small", "big", "gpt-4"), over) == [0, 2]


def test_a_pair_of_other_names_is_taken_in_its_order():
    assert router_columns(router("mixtral", "gpt-4"), job(["small", "big"])) == [0, 1]


def test_three_models():
    names = ["small", "middle", "big"]
    assert router_columns(router("big", "middle", "small"), job(names)) == [2, 1, 0]


@pytest.mark.parametrize(
    ("known", "names", "more", "message"),
    [
        (("mixtral", "gpt-4", "claude"), ["small", "big"], {}, "knows mixtral, gpt-4, claude, not small, big; map"),
        (("small", "gpt-4"), ["small", "big"], {}, "not big; map the names under router_models"),
        (("mixtral", "gpt-4"), ["small", "middle", "big"], {}, "not small, middle, big"),
        # A slip in the mapping, though the pair's order, or the alias itself, would have done.
        (("mixtral", "gpt-4"), ["small", "big"], {"small": "mixtrall"}, "'small' is mapped to 'mixtrall'"),
        (("small", "big"), ["small", "big"], {"big": "gpt-4"}, "those of random are small, big"),
        (("mixtral", "gpt-4"), ["small", "big"], {"tiny": "gpt-4"}, "the job's models are small, big"),
    ],
)
def test_one_clear_line_for_a_name_that_does_not_fit(known, names, more, message):
    with pytest.raises(RoutingError, match=message) as caught:
        router_columns(router(*known), job(names, router_models=more))
    assert "\n" not in str(caught.value)
