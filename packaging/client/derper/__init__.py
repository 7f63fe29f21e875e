"""The library of derper: `derper.client`, a DERP client for asyncio, and `derper.protocol`, DERP without I/O.

The distribution `derper` contains these packages too, beside the relay.
"""
