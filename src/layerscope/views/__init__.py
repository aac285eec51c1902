"""Output formats for reports: tables, data frames, JSON, Markdown, HTML and plots. Views never modify records."""
