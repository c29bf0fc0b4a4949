"""What figures of all jobs are made with: pages of panels, a style, files."""
