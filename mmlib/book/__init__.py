"""Chapters, their runner, and what stands on a page."""

import sys

# jsonschema, which checks notebooks, imports a grammar of web addresses if it is there. Compiling
# it takes every process three seconds, and no notebook has an address that is checked.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
