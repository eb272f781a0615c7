"""routing/__init__.py: carried here."""
