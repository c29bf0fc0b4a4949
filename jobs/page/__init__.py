"""What the pages of all jobs share: a base template, style, script, tables, words, warnings."""
