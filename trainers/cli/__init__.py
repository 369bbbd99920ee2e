"""The ``icto`` command."""

from trainers.cli.main import main

__all__ = ["main"]
