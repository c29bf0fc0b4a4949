"""The page as one HTML text."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
from collections.abc import Iterator, Mapping
from importlib.resources.abc import Traversable
from typing import Any

import jinja2
from markupsafe import Markup

from jobs.figures.palette import SERIES, Color
from jobs.page.page import PageContent

_SHARED = importlib.resources.files("jobs.page") / "assets"


def render(
    page: PageContent,
    package: str = "jobs.page",
    more: Mapping[str, Any] | None = None,
    colors: Mapping[str, Color] | None = None,
) -> str:
    """The page's HTML, with everything that it needs inline.

    The template is ``assets/page.html.j2`` of the package, or ``base.html.j2`` if the package has
    none. All values are escaped. The page's policy lets only its own scripts run, by their hashes.

    Args:
        package: of the job. If the page has figures, its ``assets/figures.js`` draws them; a
            package without one has figures of ``jobs.page.views``.
        more: what the package's template reads, in addition to ``page``.
        colors: available to the page's style as ``--<name>``, in addition to those of all pages.
    """
    assets = importlib.resources.files(package) / "assets"

    def template(name: str) -> str:
        in_package = assets / name
        return in_package.read_text("utf-8") if in_package.is_file() else _asset(name)

    name = "page.html.j2" if (assets / "page.html.j2").is_file() else "base.html.j2"
    scripts = [*_figure_scripts(page, assets), _asset("tables.js")]
    if page.matrix:
        scripts.append(_asset("matrix.js"))
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    style = _asset("page.css") + _variables(dict(_series()) | dict(colors or {}))
    style += _asset("matrix.css") if page.matrix else ""
    return environment.get_template(name).render(
        **(more or {}),
        page=page,
        has_own_figures=_own_figures(assets) is not None,
        style=Markup(style),  # noqa: S704 - from files and constants of ours
        scripts=[Markup(script) for script in scripts],  # noqa: S704
        script_hashes=[_hash(script) for script in scripts],
    )


def _figure_scripts(page: PageContent, assets: Traversable) -> list[str]:
    """Plotly, what draws the job's own figures, and what draws figures of ``jobs.page.views``."""
    own = _own_figures(assets) if page.figures else None
    has_views = bool(page.matrix and page.matrix.figures) or bool(page.figures and own is None)
    if own is None and not has_views:
        return []
    from plotly.offline import get_plotlyjs  # 5 MB, which only figures need

    drawing = [*([own] if own is not None else []), *([_asset("views.js")] if has_views else [])]
    return [get_plotlyjs(), _asset("plots.js"), *drawing]


def _own_figures(assets: Traversable) -> str | None:
    """The job's script that draws its figures; None: they are figures of ``jobs.page.views``."""
    own = assets / "figures.js"
    return own.read_text("utf-8") if own.is_file() else None


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
