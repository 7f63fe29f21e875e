"""Shared parts of all programs' pages, without their contents.

`look` (the frame and the files that pages load), `headers` (security headers), `access` (access to debug pages) and
`serving` (the HTTP servers, and which of their errors are logged).
"""
