"""The programs: words of a command line in, one immutable config object and an exit code out.

Read in this order: `govalues` (how Go spells a value), `goflags` (how Go reads a command line), then per program its
flag table (`flags`, `probing`), the file that may hold the same (`settingsfile`), the environment (`surroundings`),
what a text in either means (`values`), how all become a `derper.config.Config` (`settings`), and the programs: `derper`
and `derpprobe`, with what they share (`program`). Nothing outside this folder knows that flags exist.
"""
