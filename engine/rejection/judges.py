"""What the engine asks while it runs (see `discl.engine.previews.Rejection`): two only record, one rejects."""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch

from discl.engine.networks import Networks
from discl.engine.rejection.decoder import SmallDecoder
from discl.engine.rejection.evidence import LOOK, evidence, expectation, look, source_scores
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
        self.decoder = self.decoder.to(x0.device)
        padded = x0.new_zeros(networks.autoencoder.batch, *x0.shape[1:])
        padded[: len(x0)] = x0
        embeddings = scorer.embed_images(self.decoder.pixels(padded)[: len(x0)])
        texts = scorer.embed_texts([work.text for work in works])
        sources = torch.stack([work.source.embedding for work in works])
        own = self._own(works, x0.device)
        others = scorer.embed_texts(self.texts)
        looks = look(embeddings, texts, others, own, sources, gaps)
        return torch.cat([looks, source_scores(sources, texts, others, own)], 1)

    def _own(self, works: Sequence[Work], device: torch.device) -> torch.Tensor:
        own = torch.zeros(len(works), len(self.texts), dtype=torch.bool)
        for row, work in enumerate(works):
            if work.text in self._row:
                own[row, self._row[work.text]] = True
        return own.to(device)


class Judge(Tracer):
    """Gives requests up as a rule says."""

    def __init__(self, rule: Rule, scorer: "Scorer"):
        super().__init__(rule.decoder, rule.texts)
        self.rule, self._scorer = rule, scorer
        self._sources: WeakKeyDictionary[Source, dict[str, np.ndarray]] = WeakKeyDictionary()

    def checks(self, level: int, steps: int) -> tuple[int, ...]:
        rule = self.rule.levels.get(level)
        return () if rule is None or rule.bound is None else tuple(check.step for check in rule.checks)

    def wants(self, work: Work, steps: int) -> bool:
        """Whether the request is unlikely enough to be accepted that a look may pay."""
        rule, number = self._place(work, steps)
        given = self._given(work)
        if len(work.trace) < number:
            return False  # an earlier check has let it go already
        if number == 0:
            odds = rule.expected(expectation(*given)[0])
        else:
            odds = rule.checks[number - 1].chance(evidence(_looks(work), *given)[0])
        return bool(odds[0] <= rule.checks[number].gate)

    def rejects(self, work: Work, steps: int, features: np.ndarray) -> str:
        """Why the request is given up, or an empty string. `work.trace` ends with `features`."""
        rule, number = self._place(work, steps)
        looks = _looks(work)
        odds = rule.checks[number].chance(evidence(looks, *self._given(work))[0])
        if rule.bound is None or not rule.value(number, odds)[0] < rule.bound:
            return ""
        chance = 1 / (1 + np.exp(-odds[0]))
        return (
            f"step {steps} of {rule.steps}: chance of acceptance {chance:.4f} below the bound "
            f"{rule.chance_at_bound(number):.4f} (preview scored {looks[0, -1, 0]:.3f})"
        )

    def _place(self, work: Work, steps: int) -> tuple[LevelRule, int]:
        rule = self.rule.levels[work.request.level]
        return rule, [check.step for check in rule.checks].index(steps)

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


def _looks(work: Work) -> np.ndarray:
    """[1, looks so far, LOOK]."""
    return np.stack([row for _, row in work.trace])[None, :, :LOOK]
