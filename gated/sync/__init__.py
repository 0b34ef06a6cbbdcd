"""Keeps a lane's cache as HQ signed it: fetches, proves, applies. A process of its own: network, no devices, and no key
to anybody's data. It moves sealed rows and cannot open one (docs/sync.md)."""
