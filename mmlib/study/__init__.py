"""The experiments, one module each.

`rows(given)` of a module gives what its page shows, by the parameters of the page: with `sweep` all
of it is computed; without, what is shipped is taken, and a part of it is computed again. It raises
a ValueError where the parameters ask for what cannot be computed or is not shipped (see
`mmlib.study.evidence.shipped`), and an AuditError where what was computed again is not what was
shipped.
"""
