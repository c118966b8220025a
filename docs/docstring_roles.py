"""Docstrings refer to code as ``:func:`pointrend.points.upsample```: on the site, a link to it, or the name alone."""

import re
from typing import Any

from griffe import Extension, Object

_ROLE = re.compile(r":(?:func|class|mod|meth|data|attr):`~?([^`]+)`")


class DocstringRoles(Extension):
    """Writes Sphinx' roles as the links of mkdocs-autorefs that stay plain where a page has no such name."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = _ROLE.sub(_link, obj.docstring.value.replace("``", "`"))


def _link(role: "re.Match[str]") -> str:
    name = role[1]
    return f'<autoref identifier="{name}" optional><code>{name}</code></autoref>'
