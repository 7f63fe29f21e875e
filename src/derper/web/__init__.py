"""What the pages of both programs look like, and nothing of what is on them: `look`, and the files that pages load."""
