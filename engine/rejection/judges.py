"""What the engine asks while it runs (see `discl.engine.previews.Rejection`): two only record, one rejects."""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch

from discl.engine.networks import Networks
from discl.engine.rejection.decoder import SmallDecoder
from discl.engine.rejection.evidence import TEXT_SCORE, evidence, expectation, look, source_scores
from discl.engine.rejection.rule import LevelRule, Rule
from discl.engine.rejection.search import candidate_checks
from discl.engine.sources import Source
from discl.engine.transfer import upload
from discl.engine.work import Work

if TYPE_CHECKING:
    from discl.engine.scorer import Scorer


class LatentTracer:
    """Records x0 itself at every candidate check: its height and width, then its values [2 + C*h*w]. For `distil`."""

    def checks(self, level: int, steps: int) -> tuple[int, ...]:
        return candidate_checks(steps)

    def wants(self, works: Sequence[Work], steps: Sequence[int]) -> list[bool]:
        return [True] * len(works)

    def features(
        self, networks: Networks, scorer: "Scorer", works: Sequence[Work], x0: torch.Tensor, gaps: torch.Tensor
    ) -> torch.Tensor:
        size = x0.new_tensor(x0.shape[2:]).expand(len(x0), 2)
        return torch.cat([size, x0.flatten(1)], 1)

    def verdicts(self, works: Sequence[Work], steps: Sequence[int], features: np.ndarray) -> list[str]:
        return [""] * len(works)


class Tracer(LatentTracer):
    """Records a look (LOOK numbers, see `evidence`) and the source's text score and margin, at every candidate check.

    texts: every text that images are scored against.
    """

    def __init__(self, decoder: SmallDecoder, texts: Sequence[str]):
        self.decoder, self.texts = decoder, tuple(texts)
        self._column = {text: column for column, text in enumerate(self.texts)}

    def features(self, networks, scorer, works, x0, gaps):
        compared = self._compared(scorer, works)
        sources = torch.stack([work.source.embedding for work in works])
        return torch.cat([self._looks(scorer, x0, sources, gaps, *compared), source_scores(sources, *compared)], 1)

    def _looks(self, scorer, x0, sources, gaps, texts, others, own):
        """float32 [n, LOOK]."""
        self.decoder = self.decoder.to(x0.device)
        embeddings = scorer.embed_images(self.decoder.pixels(x0), batch=len(x0))
        return look(embeddings, texts, others, own, sources, gaps)

    def _compared(self, scorer: "Scorer", works: Sequence[Work]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The works' texts [n, D], every text [T, D] and which of these is a work's own, bool [n, T]."""
        texts = scorer.embed_texts([work.text for work in works])
        columns = torch.tensor([self._column.get(work.text, -1) for work in works])
        own = columns[:, None] == torch.arange(len(self.texts))
        return texts, scorer.embed_texts(self.texts), upload(own, texts.device)


class Judge(Tracer):
    """Gives requests up as a rule says. Its features are looks alone: it asks a source's own scores once."""

    def __init__(self, rule: Rule, scorer: "Scorer"):
        super().__init__(rule.decoder, rule.texts)
        self.rule, self._scorer = rule, scorer
        self._sources: WeakKeyDictionary[Source, dict[str, np.ndarray]] = WeakKeyDictionary()
        # A work's log-odds, and the last look that they rest on.
        self._latest: WeakKeyDictionary[Work, tuple[np.ndarray | None, float]] = WeakKeyDictionary()

    def checks(self, level: int, steps: int) -> tuple[int, ...]:
        rule = self.rule.levels.get(level)
        return () if rule is None or rule.bound is None else tuple(check.step for check in rule.checks)

    def features(self, networks, scorer, works, x0, gaps):
        sources = torch.stack([work.source.embedding for work in works])
        return self._looks(scorer, x0, sources, gaps, *self._compared(scorer, works))

    def wants(self, works: Sequence[Work], steps: Sequence[int]) -> list[bool]:
        """Whether each request is unlikely enough to be accepted that a look may pay; not once a check let it go."""
        numbers = [work.checks.index(done) for work, done in zip(works, steps, strict=True)]
        followed = [work for work, number in zip(works, numbers, strict=True) if len(work.trace) == number]
        odds = dict(zip(followed, self._odds(followed), strict=True))
        return [
            work in odds and odds[work] <= self._rule(work).checks[number].gate
            for work, number in zip(works, numbers, strict=True)
        ]

    def verdicts(self, works: Sequence[Work], steps: Sequence[int], features: np.ndarray) -> list[str]:
        """Why each request is given up, or an empty string. Its trace ends with its row of `features`."""
        return list(map(self._reason, works, steps, features, self._odds(works)))

    def _reason(self, work: Work, steps: int, seen: np.ndarray, odds: float) -> str:
        rule, number = self._rule(work), work.checks.index(steps)
        if rule.bound is None or not rule.value(number, odds) < rule.bound:
            return ""
        return (
            f"step {steps} of {rule.steps}: chance of acceptance {1 / (1 + np.exp(-odds)):.4f} below the bound "
            f"{rule.chance_at_bound(number):.4f} (preview scored {seen[TEXT_SCORE]:.3f})"
        )

    def _rule(self, work: Work) -> LevelRule:
        return self.rule.levels[work.request.level]

    def _odds(self, works: Sequence[Work]) -> list[float]:
        """Log-odds of acceptance after the looks so far. Each are worked out once, alike works together."""
        alike: dict[tuple[int, int], list[Work]] = {}
        for work in works:
            known = self._latest.get(work)
            if known is None or known[0] is not _last_look(work):  # a work that starts again has other looks
                alike.setdefault((work.request.level, len(work.trace)), []).append(work)
        for (level, looks), group in alike.items():
            for work, odds in zip(group, self._predicted(self.rule.levels[level], looks, group).tolist(), strict=True):
                self._latest[work] = _last_look(work), odds
        return [self._latest[work][1] for work in works]

    def _predicted(self, rule: LevelRule, looks: int, works: list[Work]) -> np.ndarray:
        """Log-odds [n] of works of one level after as many looks."""
        given = self._given(works)
        if looks:
            traces = np.array([[row for _, row in work.trace] for work in works])
            return rule.checks[looks - 1].chance(evidence(traces, *given)[0])
        return rule.expected(expectation(*given)[0]) if rule.expected else np.zeros(len(works))

    def _given(self, works: list[Work]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The sources' scores, the texts' priors and the thresholds, as for `evidence`."""
        new = [work for work in works if work.text not in self._sources.setdefault(work.source, {})]
        if new:
            for work, scores in zip(new, self._source_scores(new), strict=True):
                self._sources[work.source][work.text] = scores
        thresholds = [self.rule.threshold_of(work.request.class_name, work.request.level) for work in works]
        return (
            np.stack([self._sources[work.source][work.text] for work in works]),
            np.array([self.rule.prior_of(work.text) for work in works]),
            np.array(thresholds, np.float32),
        )

    def _source_scores(self, works: list[Work]) -> np.ndarray:
        """float32 [n, 2], on the host: there a row's bits do not depend on how many there are."""
        sources = torch.stack([work.source.embedding for work in works])
        return source_scores(*(part.cpu() for part in (sources, *self._compared(self._scorer, works)))).numpy()


def _last_look(work: Work) -> np.ndarray | None:
    return work.trace[-1][1] if work.trace else None
