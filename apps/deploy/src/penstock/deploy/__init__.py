"""Takes trained models out into the world."""
