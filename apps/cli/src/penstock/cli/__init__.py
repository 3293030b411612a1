"""The `penstock` command: a click root that finds its subcommands as plugins and imports one only when it runs."""
