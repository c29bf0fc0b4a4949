"""The page as one HTML text."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
from collections.abc import Iterator, Mapping
from typing import Any

import jinja2
from markupsafe import Markup

from jobs.figures.palette import SERIES, Color

_SHARED = importlib.resources.files("jobs.page") / "assets"


def render(
    package: str, context: Mapping[str, Any], colors: Mapping[str, Color] | None = None
) -> str:
    """A package's ``assets/page.html.j2`` with everything that it needs inline.

    The page draws its figures with the package's ``assets/figures.js``. All that comes from the
    context is escaped. The page's policy lets only its own scripts run, by their hashes.

    Args:
        colors: what the page's style calls ``--<name>``, beside those that all pages have.
    """
    from plotly.offline import get_plotlyjs  # 5 MB, which only this needs

    assets = importlib.resources.files(package) / "assets"

    def template(name: str) -> str:
        of_package = assets / name
        return of_package.read_text("utf-8") if of_package.is_file() else _asset(name)

    figures = (assets / "figures.js").read_text("utf-8")
    scripts = [get_plotlyjs(), _asset("plots.js"), figures, _asset("tables.js")]
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    style = _asset("page.css") + _variables(dict(_series()) | dict(colors or {}))
    return environment.get_template("page.html.j2").render(
        **context,
        style=Markup(style),  # noqa: S704 - from files and constants of ours
        scripts=[Markup(script) for script in scripts],  # noqa: S704
        script_hashes=[_hash(script) for script in scripts],
    )


def _series() -> Iterator[tuple[str, Color]]:
    for number, color in enumerate(SERIES):
        yield f"series-{number}", color


def _variables(colors: Mapping[str, Color]) -> str:
    """Colors as variables of the page's style, for a light and a dark screen."""
    light, dark = (
        "".join(f"--{name}:{color[scheme]};" for name, color in colors.items()) for scheme in (0, 1)
    )
    return f":root{{{light}}}\n@media (prefers-color-scheme: dark){{:root{{{dark}}}}}\n"


def _asset(name: str) -> str:
    return (_SHARED / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
