"""What the bytes of DERP mean, and nothing else.

This folder is pure: it opens no socket, reads no clock and draws no random bytes. Bytes, nonces, dates and keys are
handed in; bytes, values and `ProtocolError` come out. So the server, the client, the prober and the tests share one
reading of the wire, and every rule here can be tested with nothing but data. The rules themselves stand in
`docs/protocol/`; docstrings name the section that they implement.

Read in this order, which is the order of a connection's life:

    keys      the 32-byte names of nodes, and the mesh key
    upgrade   the HTTP request that becomes a DERP stream, and its answer
    metacert  the certificate that tells a TLS 1.3 client the server's key beforehand
    reader    a byte stream cut into frames
    login     ServerKey, ClientInfo, ServerInfo: who is there, proved by a box
    frames    every frame after login
    disco     which packets are NAT traversal and not payload
    gojson    JSON as the peers' parser reads it (used by login)
"""
