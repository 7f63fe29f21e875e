"""The programs: words of a command line in, one immutable config object and an exit code out.

Read in this order: `govalues` (how Go spells a value), `goflags` (how Go reads a command line), then per program its
flag table (`flags`), the file that may hold the same (`settingsfile`), how these and the environment become a
`derper.config.Config` (`settings`), and `derper.main`. Nothing outside this folder knows that flags exist.
"""
