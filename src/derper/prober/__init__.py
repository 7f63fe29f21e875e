"""The prober: asks every relay of a DERP map, again and again, whether it does what clients need of it.

Read in this order: `config` (what an operator decided), `probe` (one probe and its record), `schedule` (which runs
when), `source` (where the map comes from), `plan` (which probes a map asks for); then a file for each class of probe:
`tls` with `revocation`, `udp`, `mesh`, `bandwidth` with `tunnel` and `tundevice`, `queuing`; last what is shown:
`metrics`, `pages`, `status`, `charts`, `verdict`; and `app`, which joins all. See docs/protocol/prober.md.
"""
