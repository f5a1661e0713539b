"""Results as tables: on the screen (Rich), as Markdown, CSV and LaTeX, with the paper's numbers beside ours.

Metrics come in as `conki_cli.metrics` makes them (accuracies and F1 as fractions); only what is drawn is in percent.
"""
