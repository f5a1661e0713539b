"""The nine systems that the paper compares with (Tables 2, 3 and 6), one file each; `zoo` finds them by name."""
