"""Raw files opened safely: nothing in them runs, nothing is read before it is asked for, sizes are bounded.

`opening.open_raw` tells what a file is and opens it; the formats of the field, beside this package, say what it means.
"""
