"""A whole report, a bare one and a hostile one to render, and what a person then reads on the page or in the terminal."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from rich.console import Console

EXAMPLE = json.loads(Path(__file__).with_name("report_example.json").read_text(encoding="utf-8"))
HOSTILE = "</td></title><script>document.title='owned'</script>\"'><img src=x onerror=alert(1)>&amp;\ud83d"
BARE = {"rows": 10, "errors": 0, "open": 0, "by_model": {}, "complete": True}


def example(**changes: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(EXAMPLE)), **changes}


class Page(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = [("", {})]
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags[-1][0] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\u00a0", " ").split())


def terminal(table: Any, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(table)
    return console.export_text().splitlines()


def hostile(value: Any) -> Any:
    """Every string a model or a user may have written becomes an attack; the figures and the roles stay."""
    if isinstance(value, dict):
        return {key: hostile(item) for key, item in value.items() if key != "kind"}
    if isinstance(value, list):
        return [hostile(item) for item in value]
    return HOSTILE if isinstance(value, str) else value
