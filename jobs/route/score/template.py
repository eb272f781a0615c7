"""The job's Jinja template over the columns of the input, in a sandbox."""

from __future__ import annotations

import jinja2.meta
import jinja2.sandbox

from jobs.errors import SpecError
from jobs.route.score.formats.record import InputColumns


class PromptTemplate:
    """The job's Jinja template. It is pickled as its source: compiled templates do not travel."""

    def __init__(self, source: str) -> None:
        """Raises SpecError, with the line, for a template that does not compile."""
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)
        self.source = source
        try:
            tree = environment.parse(source)
            self._compiled = environment.from_string(source)  # unknown filters and tests are found here alone
        except jinja2.TemplateSyntaxError as error:
            raise SpecError(f"template: line {error.lineno}: {error.message}") from None
        except (RecursionError, SyntaxError, MemoryError):  # of Python's own compiler too: 20 loops, 200 parentheses
            raise SpecError("template: nested too deeply; simplify it") from None
        self.variables = sorted(set(jinja2.meta.find_undeclared_variables(tree)) - set(environment.globals))

    def __reduce__(self) -> tuple[type[PromptTemplate], tuple[str]]:
        return PromptTemplate, (self.source,)

    def render(self, columns: InputColumns) -> str:
        """Raises whatever the template raises on these columns."""
        return self._compiled.render(columns)
