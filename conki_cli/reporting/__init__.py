"""Results as output: tables, tests, figures, reports, exports."""
