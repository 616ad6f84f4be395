"""One plan on many machines: a coordinator leases blocks of sources to workers, and enters what they seal in the store.

leases        which blocks wait, are out, or done; no clock, no network
messages      what coordinator and workers say to each other: paths and small records, never an image
members       a run's workers, and what they must have in common
worker        an engine fed from leased blocks, a store of its own to write to
coordinator   the plan, the leases, the store: reports in, orders out
connection    a Ray cluster and the room it has
actors        the workers as Ray actors
scoring       a store's shards scored by Ray actors
"""
