"""Outbox -> MQTT -> HQ, and orders -> control socket. Own process: it has the network, no devices and no secrets but
its own certificate's key.

It can lose nothing, because it holds nothing: records lie in lane.db, which it only reads, and they leave there only
when HQ itself said, after its commit and under its signature, that it has them (docs/uplink.md). Everything in memory
here may be lost at any moment and costs a second sending, which HQ recognises.

`line` is the process's loop; `brokers` says which broker is next, `cap` how much may go, `daemon` asks the lane's
process, `versions` compares what the lane has with what HQ wants it to have.
"""
