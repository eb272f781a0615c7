"""Measuring routers on recorded outcomes: reading (`sources`), one table of figures (`measure`), and showing it."""
