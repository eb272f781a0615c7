"""jobs/__init__.py: carried here."""
