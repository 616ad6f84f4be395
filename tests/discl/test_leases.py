"""Leases: every block once, whoever is lost; memory is that of what is out."""

import random

from discl.cluster.leases import MOST_LOSSES, Leases


def test_every_block_is_done_once_whatever_is_lost():
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(50):
        sources, size = list(range(chance.randrange(1, 60))), chance.randrange(1, 9)
        leases = Leases(sources, size)
        made, held, workers = [], {}, 0
        while not leases.finished:
            worker = f"w{chance.randrange(3)}-{workers}"
            what = chance.random()
            if what < 0.5 and (block := leases.lease(worker)):
                held.setdefault(worker, []).append(block)
            elif held and what < 0.9:
                worker = chance.choice(sorted(held))
                block = held[worker].pop(chance.randrange(len(held[worker])))
                leases.done(worker, block.number)
                made += leases.sources(block)
                if not held[worker]:
                    del held[worker]
            elif held:
                lost = chance.choice(sorted(held))
                hopeless = leases.lost(lost)
                assert set(hopeless) <= {block._replace(losses=block.losses + 1) for block in held.pop(lost)}
                workers += 1
        given_up = [source for block in leases.given_up for source in leases.sources(block)]
        assert sorted(made + given_up) == sources
        assert all(block.losses == MOST_LOSSES for block in leases.given_up)


def test_what_a_lost_worker_had_comes_first():
    leases = Leases(list(range(10)), 2)
    first = leases.lease("a")
    leases.lease("b")
    leases.lost("a")
    assert leases.lease("c") == first._replace(losses=1)
    assert leases.waiting == 3
