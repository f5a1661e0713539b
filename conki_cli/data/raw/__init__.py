"""Raw files opened safely: nothing in them is executed, values are read only on demand, sizes are limited.

`opening.open_raw` detects the kind of a file and opens it; the formats in `data/sources` interpret it.
"""
