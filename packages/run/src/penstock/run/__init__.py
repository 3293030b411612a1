"""What a run is: its config, its directory, and the lock of its plugins. Imports no torch."""
