"""Rendering of templates to HTML: escaped, and self-contained on any file share.

Templates lie beside the code that renders them. ``pages/base.html.jinja`` is the frame of all
pages: a template that extends it may name a style sheet and a script, which are inlined.
"""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING

from engine.visible import visible

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def render(template: str, **values: object) -> str:
    r"""Return a template with values filled in.

    All values are escaped, including characters that reorder or hide text.

    Parameters
    ----------
    template
        Path of the template in this package.

    Examples
    --------
    >>> values = {"where": "<b>\u202e", "state": "{{ 7*7 }}", "link": None}
    >>> render("execution/cluster/cluster.html.jinja", **values)
    '<b>&lt;b&gt;\\u202e</b>: {{ 7*7 }}'
    """
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("engine", ""),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(inlined=_inlined, source_hash=_source_hash)
    return made


def _shown(value: object) -> object:
    """Escape effects without a glyph; jinja2 escapes HTML afterwards."""
    return value if hasattr(value, "__html__") else visible(str(value))


def _source(name: str) -> str:
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _inlined(name: str) -> Markup:
    """Return a style sheet or a script of this package, which needs no escaping."""
    from markupsafe import Markup

    return Markup(_source(name))


def _source_hash(name: str) -> str:
    """Return the hash by which a Content-Security-Policy allows a script."""
    return f"sha256-{b64encode(sha256(_source(name).encode()).digest()).decode()}"
