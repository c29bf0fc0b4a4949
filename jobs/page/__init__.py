"""What the pages of all jobs share: content, base template, style, scripts, tables, words."""
