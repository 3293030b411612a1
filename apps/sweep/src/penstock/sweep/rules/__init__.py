"""Rules that stop cells of a sweep early."""
