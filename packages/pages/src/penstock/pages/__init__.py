"""Self-contained HTML pages: charts, number formats, cards, and the writer of a page from an app's own template."""
