"""The table of engines: where lanes are, and what a package that adds one may do wrong."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from job_mistakes import changed

from jobs.errors import SpecError
from jobs.spec import engines
from jobs.spec.engines import BUILT_IN, GROUP, traits_of
from jobs.spec.loader import parse_spec

Install = Callable[[str, str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a package with one module and one entry point where Python finds it: name, what it loads, the module's text."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(name: str, loads: str, text: str) -> None:
        module = loads.partition(":")[0]
        (tmp_path / f"{module}.py").write_text(text)
        folder = tmp_path / f"{module}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
        (folder / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {loads}\n")
        forget()

    def forget() -> None:
        engines._added.cache_clear()
        traits_of.cache_clear()

    yield put
    forget()


def complaint(engine: str) -> str:
    with pytest.raises(SpecError) as error:
        parse_spec(changed("models/small/engine", engine))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("traits", BUILT_IN.values(), ids=lambda traits: traits.name)
def test_a_lane_is_where_its_traits_say(traits: engines.EngineTraits) -> None:
    module, _, name = traits.lane.partition(":")
    found = importlib.util.find_spec(module)  # not imported: vLLM and torch take their time
    assert found is not None and found.origin is not None
    assert f"\nclass {name}:" in Path(found.origin).read_text()


def test_an_engine_that_a_package_adds_is_one_like_the_others(install: Install) -> None:
    made = "from jobs.spec.engines import EngineTraits\nTRAITS = EngineTraits('added_fine', 'nowhere:Lane', 'calls')\n"
    install("added_fine", "added_fine_1:TRAITS", made)
    assert complaint("added_fine").startswith("models.small: price.gpu_hour_usd is for engines that run here; ")
    job = changed("models/small", {"engine": "added_fine", "price": {"per_million": {"input": 1, "output": 1}}})
    spec = parse_spec(job)
    assert spec.models["small"].traits.lane == "nowhere:Lane"
    learns = {"sample": {"rows": 9}, "quality": {"gold": {"column": "a"}}, "cascade": {"signals": ["logprob"]}}
    with pytest.raises(SpecError, match=r"^cascade.signals: logprob is not given by engine added_fine; remove it$"):
        parse_spec(job | learns)
    assert complaint("added_fin") == (
        "models.small.engine: must be one of vllm, openai, openai_batch, transformers or added_fine (found 'added_fin'); "
        "did you mean 'added_fine'?"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import no_such_module_1\n", "ModuleNotFoundError: No module named 'no_such_module_1'"),
        ("TRAITS = 'added_badly'\n", "must be an EngineTraits of that name"),
        ("from jobs.spec.engines import BUILT_IN\nTRAITS = BUILT_IN['vllm']\n", "must be an EngineTraits of that name"),
    ],
)
def test_a_broken_package_is_named_where_it_is_asked_for(install: Install, text: str, says: str) -> None:
    module = f"added_badly_{abs(hash(text))}"
    install("added_badly", f"{module}:TRAITS", text)
    said = complaint("added_badly")
    assert said.startswith("models.small.engine: engine added_badly: ") and module in said and says in said
    parse_spec(changed("models/small/engine", "vllm"))  # of no concern to a job that does not use it


def test_no_package_takes_the_name_of_an_engine_that_is_built_in(install: Install) -> None:
    install("openai", "added_thief:TRAITS", "raise SystemExit('imported')\n")
    assert traits_of("openai") is BUILT_IN["openai"]
    assert engines.engines() == tuple(BUILT_IN)
