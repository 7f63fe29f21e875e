"""The prober: repeatedly checks that every relay of a DERP map works for clients.

Read in this order: `config` (the configuration), `probe` (one probe and its record), `schedule` (the times of the
probes), `source` (the source of the map), `plan` (the probes of a map). Then a file for each class of probe: `tls` with
`revocation`, `udp`, `mesh`, `bandwidth` with `tunnel` and `tundevice`, `queuing`. Last the output: `metrics`, `pages`,
`status`, `charts`, `verdict`; and `app`, which joins all. See docs/protocol/prober.md.
"""
