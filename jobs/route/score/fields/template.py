"""The job's Jinja template over the columns of the input, in a sandbox.

A column that is null in a row, NaN, or not there is `Absent`: false, `none`, not `defined`, replaced by `default`, and to print it
is the row's error. So are fields and list items. No prompt says None or nan where the input says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jinja2.filters
import jinja2.meta
import jinja2.nodes
import jinja2.sandbox
import jinja2.tests

from jobs.errors import SpecError
from jobs.route.score.formats.record import NOT_UTF8, InputColumns
from jobs.route.score.values.nulls import is_null


class Absent(jinja2.Undefined):
    """Nothing: a null, a NaN, what is not there. It can be asked about, not used."""

    __slots__ = ()

    def __eq__(self, other: Any) -> bool:
        return other is None or isinstance(other, Absent)

    def __hash__(self) -> int:
        return hash(None)

    def __str__(self) -> str:
        self._fail_with_undefined_error()

    def __repr__(self) -> str:
        """Within a list or an object that is printed."""
        self._fail_with_undefined_error()

    def __iter__(self) -> Iterator[Any]:
        self._fail_with_undefined_error()

    def __len__(self) -> int:
        self._fail_with_undefined_error()

    def __contains__(self, item: Any) -> bool:
        self._fail_with_undefined_error()


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which a method that finds nothing (`get` of an object) gives `Absent` too."""

    def call(self, *arguments: Any, **options: Any) -> Any:
        result = super().call(*arguments, **options)
        return Absent(hint="what a call found is null") if result is None else result


class PromptTemplate:
    """The job's Jinja template. It is pickled as its source: compiled templates do not travel."""

    def __init__(self, source: str) -> None:
        """Raises SpecError, with the line, for a template that does not compile."""
        environment = _environment()
        self.source = source
        try:
            tree = environment.parse(source)
            self._compiled = environment.from_string(source)  # unknown filters and tests are found here alone
        except jinja2.TemplateSyntaxError as error:
            raise SpecError(f"template: line {error.lineno}: {error.message}") from None
        except (RecursionError, SyntaxError, MemoryError):  # of Python's own compiler too: 20 loops, 200 parentheses
            raise SpecError("template: nested too deeply; simplify it") from None
        self.variables = sorted(set(jinja2.meta.find_undeclared_variables(tree)) - set(environment.globals))
        self.globals = sorted({node.name for node in tree.find_all(jinja2.nodes.Name)} & set(environment.globals))
        """Jinja's own names that it uses (`range`, `dict`): columns of these names come first."""

    def __reduce__(self) -> tuple[type[PromptTemplate], tuple[str]]:
        return PromptTemplate, (self.source,)

    def render(self, columns: InputColumns) -> str:
        """Raises whatever the template raises on these columns."""
        values = {name: _value(columns[name], name) for name in (*self.variables, *self.globals) if name in columns}
        return self._compiled.render(values)


def _environment() -> jinja2.Environment:
    environment = _Environment(undefined=Absent, autoescape=False, finalize=_printed)
    environment.tests["none"] = lambda value: value is None or isinstance(value, Absent)
    environment.tests["iterable"] = lambda value: not isinstance(value, Absent) and jinja2.tests.test_iterable(value)
    environment.filters["int"] = _int
    environment.filters["float"] = _float
    environment.policies["json.dumps_function"] = _dumps
    return environment


def _value(value: Any, name: str) -> Any:
    """A value of the input as the template sees it. name: how the template's author would write it."""
    if is_null(value):
        return Absent(hint=f"{name} is null")
    if isinstance(value, bytes):
        return Absent(hint=f"{name} is {NOT_UTF8}")
    if isinstance(value, dict):
        return {key: _value(each, f"{name}.{key}") for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_value(each, f"{name}[{i}]") for i, each in enumerate(value))
    return value


def _printed(value: Any) -> Any:
    """What the template prints, which may also have come of a computation."""
    if is_null(value):
        raise jinja2.UndefinedError("what it prints is null")
    return value


def _int(value: Any, *default: Any, **options: Any) -> Any:
    return jinja2.filters.do_int(_counted(value, default, options), *default, **options)


def _float(value: Any, *default: Any, **options: Any) -> Any:
    return jinja2.filters.do_float(_counted(value, default, options), *default, **options)


def _counted(value: Any, default: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """A number is made of nothing only where the template says which."""
    if isinstance(value, Absent):
        return None if default or "default" in options else str(value)
    return value


def _dumps(value: Any, **options: Any) -> str:
    """`tojson`: a null has a form there."""
    return json.dumps(value, default=_in_json, **options)


def _in_json(value: Any) -> None:
    if not isinstance(value, Absent):
        raise TypeError(f"{type(value).__name__} has no form in JSON")
