"""Models and outputs that are not on this machine's disks: object stores, and the Hub by ranges."""
