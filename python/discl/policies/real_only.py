"""No synthetic image, the same resampling: the control that shows what resampling alone does (paper 4.5)."""

from discl.policies.stage import Stage


def real_only(stage: Stage) -> tuple[int, ...]:
    return ()
