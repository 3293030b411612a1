"""Commands that need no other application."""
