"""A run as a page to read, and as a table for the terminal."""

from trainers.report.data import RunData, read_run
from trainers.report.page import write_report
from trainers.report.tables import Row, run_text, table_rows, table_text

__all__ = ["Row", "RunData", "read_run", "run_text", "table_rows", "table_text", "write_report"]
