"""Drivers: one folder a kind of device, one file a driver; the file name is the driver name."""
