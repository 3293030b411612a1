"""Stages that clean documents: each decides which documents go, and says why."""
