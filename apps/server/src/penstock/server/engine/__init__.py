"""The process that computes: texts join and leave between the steps of one model."""
