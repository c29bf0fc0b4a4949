"""What the figures of all jobs share: pages of panels, a style, colors, files."""
