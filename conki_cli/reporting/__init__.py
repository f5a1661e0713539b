"""What is shown and written of results: tables, tests, exports."""
