"""The output edge: a Report as a table, a frame, JSON, Markdown, or a file; views read records and change nothing."""
