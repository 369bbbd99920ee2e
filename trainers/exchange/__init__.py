"""Data in and out: trajectories and pairs to and from the files of other projects."""

from trainers.exchange.export import ExportOptions, export_file
from trainers.exchange.intake import import_file
from trainers.exchange.options import FORMATS, ImportOptions

__all__ = ["FORMATS", "ExportOptions", "ImportOptions", "export_file", "import_file"]
