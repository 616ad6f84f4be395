"""One step per epoch up the levels and down again, turning at both ends (paper 3.2)."""

from discl.policies.stage import Stage


def recursive(stage: Stage) -> tuple[int, ...]:
    last = len(stage.levels) - 1
    place = stage.epoch % max(2 * last, 1)
    return (stage.levels[min(place, 2 * last - place)],)
