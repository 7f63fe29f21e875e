"""What the pages of all programs of ours share, and nothing of what is on them.

`look` (the frame and the files that pages load), `headers` (what browsers are told), `access` (who may see debug pages)
and `serving` (how the HTTP servers run, and which of their errors are logged).
"""
