"""Link the first use of a term on every page to the glossary, and say there what it means.

A Sphinx extension, named in `_config.yml`. Chapters stay as they are, without a role at any word,
so that JupyterLab shows plain text. What a term means is on the page itself: it appears beside the
pointer, or below when the keyboard or a finger reaches the term (``book/_static/mmlib.css``).
"""

import re
from html import escape
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform

GLOSSARY = "glossary"
MOST = 10
"""Terms of a page that are linked, so that a text does not become a list of links."""
EVERYDAY = {"cell", "condition", "target", "unit", "view", "scale", "soup", "flip", "tier"}
"""Entries that stand in the text in their everyday sense too."""
_LEFT = (nodes.title, nodes.reference, nodes.literal, nodes.table, nodes.raw, nodes.math)
_LEFT += (addnodes.pending_xref, nodes.caption, nodes.emphasis)
"""Where no term is looked for."""


def definitions(glossary: nodes.document) -> dict[str, tuple[str, str]]:
    """Term in lower case -> its anchor and its meaning, from the page of the glossary."""
    found = {}
    for item in glossary.findall(nodes.definition_list_item):
        meaning = item.next_node(nodes.definition).astext().replace("\n", " ")
        for term in item.findall(nodes.term):
            if term["ids"]:
                found[term.astext().lower()] = (term["ids"][0], meaning)
    return found


class Terms(SphinxPostTransform):
    """Replace the first use of every term in the running text of a page."""

    default_priority = 5
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        """Link the terms of one page."""
        if self.env.docname in (GLOSSARY, "api"):
            return
        known = definitions(self.env.get_doctree(GLOSSARY))
        for term in EVERYDAY:
            known.pop(term, None)
        page = self.app.builder.get_relative_uri(self.env.docname, GLOSSARY)
        pattern, linked = _pattern(known), 0
        for text in filter(_running, [*self.document.findall(nodes.Text)]):
            parts, rest = [], text.astext()
            while linked < MOST and (match := pattern.search(rest)):
                anchor, meaning = known[match[1].lower()]
                known = {term: told for term, told in known.items() if told[0] != anchor}
                pattern = _pattern(known)
                html = _html(match[0], f"{page}#{anchor}", f"mm-term-{linked}", meaning)
                parts += [nodes.Text(rest[: match.start()]), nodes.raw("", html, format="html")]
                rest, linked = rest[match.end() :], linked + 1
            if parts:
                text.parent.replace(text, [*parts, nodes.Text(rest)])
            if linked == MOST:
                return


def _running(text: nodes.Text) -> bool:
    """Whether a text is in a paragraph, and in nothing that has a look or a link of its own."""
    above, paragraph = text.parent, False
    while above is not None:
        if isinstance(above, _LEFT):
            return False
        paragraph = paragraph or isinstance(above, nodes.paragraph)
        above = above.parent
    return paragraph


def _pattern(known: dict[str, tuple[str, str]]) -> re.Pattern[str]:
    """Any known term, the longest first, also in the plural; without terms nothing."""
    terms = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
    return re.compile(rf"(?<![\w-])({terms or '(?!)'})s?(?![\w-])", re.IGNORECASE)


def _html(word: str, target: str, name: str, meaning: str) -> str:
    return (
        f'<span class="mm-term"><a href="{escape(target)}" aria-describedby="{name}">'
        f'{escape(word)}</a><span role="tooltip" id="{name}">{escape(meaning)}</span></span>'
    )


def setup(app: Any) -> dict[str, bool]:
    """Add the transform: an extension, named in `_config.yml`."""
    app.add_post_transform(Terms)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
