"""One self-contained HTML page about one run or several: `page.render_report` reads run directories and writes it."""
