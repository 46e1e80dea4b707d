"""spore_borg: a verifiable research mesh. What is true is the set of signed records."""

__version__ = "0.1.0"
