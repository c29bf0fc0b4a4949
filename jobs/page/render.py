"""The page as one HTML text."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

_SHARED = importlib.resources.files("jobs.page") / "assets"


def render(package: str, context: Mapping[str, Any], scripts: Sequence[str] = ()) -> str:
    """A package's ``assets/page.html.j2`` with everything it needs inline.

    All that comes from the context is escaped. The scripts are the page's own; their hashes are all
    that the page's policy lets run.

    Args:
        scripts: texts of scripts; the one that sorts tables comes behind them.
    """
    assets = importlib.resources.files(package) / "assets"

    def template(name: str) -> str:
        of_package = assets / name
        return of_package.read_text("utf-8") if of_package.is_file() else _asset(name)

    scripts = [*scripts, _asset("tables.js")]
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment.get_template("page.html.j2").render(
        **context,
        style=Markup(_asset("page.css")),  # noqa: S704 - a file of this package
        scripts=[Markup(script) for script in scripts],  # noqa: S704
        script_hashes=[_hash(script) for script in scripts],
    )


def _asset(name: str) -> str:
    return (_SHARED / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
