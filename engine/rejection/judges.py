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
from discl.engine.work import Work

if TYPE_CHECKING:
    from discl.engine.scorer import Scorer


class LatentTracer:
    """Records x0 itself at every candidate check: its height and width, then its values [2 + C*h*w]. For `distil`."""

    def checks(self, level: int, steps: int) -> tuple[int, ...]:
        return candidate_checks(steps)

    def wants(self, work: Work, steps: int) -> bool:
        return True

    def features(
        self, networks: Networks, scorer: "Scorer", works: Sequence[Work], x0: torch.Tensor, gaps: torch.Tensor
    ) -> torch.Tensor:
        size = x0.new_tensor(x0.shape[2:]).expand(len(x0), 2)
        return torch.cat([size, x0.flatten(1)], 1)

    def rejects(self, work: Work, steps: int, features: np.ndarray) -> str:
        return ""


class Tracer(LatentTracer):
    """Records a look (LOOK numbers, see `evidence`) and the source's text score and margin, at every candidate check.

    texts: every text that images are scored against.
    """

    def __init__(self, decoder: SmallDecoder, texts: Sequence[str]):
        self.decoder, self.texts = decoder, tuple(texts)
        self._row = {text: row for row, text in enumerate(self.texts)}

    def features(self, networks, scorer, works, x0, gaps):
        looks = self.looks(networks, scorer, works, x0, gaps)
        sources = torch.stack([work.source.embedding for work in works])
        texts, others = scorer.embed_texts([work.text for work in works]), scorer.embed_texts(self.texts)
        return torch.cat([looks, source_scores(sources, texts, others, self._own(works, x0.device))], 1)

    def looks(self, networks, scorer, works, x0, gaps):
        """float32 [n, LOOK]."""
        self.decoder = self.decoder.to(x0.device)
        padded = x0.new_zeros(networks.autoencoder.batch, *x0.shape[1:])
        padded[: len(x0)] = x0
        embeddings = scorer.embed_images(self.decoder.pixels(padded)[: len(x0)])
        texts = scorer.embed_texts([work.text for work in works])
        sources = torch.stack([work.source.embedding for work in works])
        return look(embeddings, texts, scorer.embed_texts(self.texts), self._own(works, x0.device), sources, gaps)

    def _own(self, works: Sequence[Work], device: torch.device) -> torch.Tensor:
        own = torch.zeros(len(works), len(self.texts), dtype=torch.bool)
        for row, work in enumerate(works):
            if work.text in self._row:
                own[row, self._row[work.text]] = True
        return own.to(device)


class Judge(Tracer):
    """Gives requests up as a rule says. Its features are looks alone: it asks a source's own scores once."""

    def __init__(self, rule: Rule, scorer: "Scorer"):
        super().__init__(rule.decoder, rule.texts)
        self.rule, self._scorer = rule, scorer
        self._sources: WeakKeyDictionary[Source, dict[str, np.ndarray]] = WeakKeyDictionary()
        self._latest: WeakKeyDictionary[Work, tuple[np.ndarray, float]] = WeakKeyDictionary()  # look, log-odds after it

    def checks(self, level: int, steps: int) -> tuple[int, ...]:
        rule = self.rule.levels.get(level)
        return () if rule is None or rule.bound is None else tuple(check.step for check in rule.checks)

    def features(self, networks, scorer, works, x0, gaps):
        return self.looks(networks, scorer, works, x0, gaps)

    def wants(self, work: Work, steps: int) -> bool:
        """Whether the request is unlikely enough to be accepted that a look may pay."""
        rule, number = self._place(work, steps)
        if len(work.trace) < number:
            return False  # an earlier check has let it go already
        return self._odds(work, rule) <= rule.checks[number].gate

    def rejects(self, work: Work, steps: int, features: np.ndarray) -> str:
        """Why the request is given up, or an empty string. `work.trace` ends with `features`."""
        rule, number = self._place(work, steps)
        odds = self._odds(work, rule)
        if rule.bound is None or not rule.value(number, odds) < rule.bound:
            return ""
        return (
            f"step {steps} of {rule.steps}: chance of acceptance {1 / (1 + np.exp(-odds)):.4f} below the bound "
            f"{rule.chance_at_bound(number):.4f} (preview scored {features[TEXT_SCORE]:.3f})"
        )

    def _place(self, work: Work, steps: int) -> tuple[LevelRule, int]:
        return self.rule.levels[work.request.level], work.checks.index(steps)

    def _odds(self, work: Work, rule: LevelRule) -> float:
        """After the looks so far."""
        if not work.trace:
            columns, _ = expectation(*self._given(work))
            return float(rule.expected(columns)[0]) if rule.expected else 0.0
        _, now = work.trace[-1]
        known = self._latest.get(work)
        if known is None or known[0] is not now:  # a work that starts again has other looks
            columns, _ = evidence(np.stack([row for _, row in work.trace])[None], *self._given(work))
            known = self._latest[work] = now, float(rule.checks[len(work.trace) - 1].chance(columns)[0])
        return known[1]

    def _given(self, work: Work) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The source's scores, the text's prior and the threshold, one row each."""
        known = self._sources.setdefault(work.source, {})
        if work.text not in known:
            embedding = work.source.embedding[None]
            texts = self._scorer.embed_texts([work.text])
            own = self._own([work], embedding.device)
            known[work.text] = source_scores(embedding, texts, self._scorer.embed_texts(self.texts), own).cpu().numpy()
        threshold = self.rule.threshold_of(work.request.class_name, work.request.level)
        return known[work.text], np.array([self.rule.prior_of(work.text)]), np.array([threshold], np.float32)
