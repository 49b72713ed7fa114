"""Pages that are one file: they need no server and no network."""

import base64
import functools
import gzip
import html
import importlib.util
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
LEVEL = 5  # of gzip: a tenth of a second; more takes longer and saves one percent


def fill(template: str, parts: Mapping[str, str]) -> str:
    """The text of the file `template` with each <!--NAME--> replaced by its part.

    The parts that all pages have are added: style, common script, and plotly.js, see
    `packed_plotly`.

    Args:
        template: name of a file in this folder.
        parts: by name, the large ones last: what they contain is not replaced.
    """
    shared = {
        "STYLE": (HERE / "page.css").read_text(),
        "CHARTS": (HERE / "charts.js").read_text(),
    }
    text = (HERE / template).read_text()
    for name, part in (shared | dict(parts) | {"PLOTLY": packed_plotly() or ""}).items():
        text = text.replace(f"<!--{name}-->", part)
    return text


@functools.cache  # the jobs of a sweep need it again and again
def packed_plotly() -> str | None:
    """plotly.js, compressed by gzip, in base64: 2 MB instead of 5; None if plotly is missing.

    The package is not imported, because that takes longer than all the rest of a page.
    """
    found = importlib.util.find_spec("plotly")
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(found.submodule_search_locations[0]) / "package_data" / "plotly.min.js"
    return base64.b64encode(gzip.compress(path.read_bytes(), LEVEL, mtime=0)).decode()


def has_plotly(page: str) -> bool:
    """Whether plotly is installed; if not, a line in the log says that `page` is not written."""
    if packed_plotly() is None:
        log.info('%s was not written, because plotly is missing: pip install -e ".[report]"', page)
        return False
    return True


def json_text(content: Any) -> str:
    """JSON that can stand within a script, which only "</" and "<!--" end or change."""
    return json.dumps(content, allow_nan=False).replace("<", "\\u003c")


def table(rows: Sequence[Sequence[str]], classes: str = "") -> str:
    """A table of texts, the titles first."""
    titles, *body = rows
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in body]
    return (
        f'<div class="wide"><table class="{classes}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody></table></div>"
    )


def picture(path: Path, text: str) -> str:
    """A picture with a text below it, within the page; nothing if there is no such file."""
    if not path.exists():
        return ""
    content = base64.b64encode(path.read_bytes()).decode()
    text = html.escape(text)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{content}"><figcaption>{text}</figcaption></figure>'
