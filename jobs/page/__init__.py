"""What pages of all jobs are made with: a style, tables that sort, one file with all of it."""
