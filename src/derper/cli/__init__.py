"""The programs: parse a command line into one immutable configuration, run, and return an exit code.

Read in this order: `derper.govalues` (Go's spellings of values), `goflags` (Go's parsing of a command line), then per
program its flag table (`flags`, `probing`), the settings file (`settingsfile`), the environment (`environment`), the
meaning of texts (`values`), the resulting `derper.config.Config` (`settings`), and the programs: `derper` and
`derpprobe`, with their shared part (`program`). No code outside this folder knows flags.
"""
