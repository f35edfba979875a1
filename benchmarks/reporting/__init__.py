"""Rows to tables, charts, Markdown and HTML."""
