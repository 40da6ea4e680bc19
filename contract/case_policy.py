"""The parameters of the case rule, and its scores. The trainer fits the parameters on patients that it did not train
on, and stores them in the bundle. contract/case_rule.py applies them.
"""

from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from contract.states import MarkCode

Scores = NDArray[np.float64]
RuleName = Literal["mean", "positive_share", "top_k_mean", "noisy_or"]
RULE_PARAMETERS = ("positive_from", "top_k", "link")
DEFAULT_EXCLUDE = (MarkCode.OUT_OF_FOCUS, MarkCode.EMPTY_FIELD, MarkCode.NO_NUCLEATED_CELL, MarkCode.NOVEL)
"""Of these captures the network's answers mean little, and a field without a leukocyte proves nothing."""


def _mean(p_all: Scores, _: "CasePolicy") -> Scores:
    return np.asarray(p_all.mean(axis=-1))


def _positive_share(p_all: Scores, policy: "CasePolicy") -> Scores:
    return np.asarray((p_all >= policy.positive_from).mean(axis=-1))


def _top_k_mean(p_all: Scores, policy: "CasePolicy") -> Scores:
    return np.asarray(np.sort(p_all, axis=-1)[..., -policy.top_k :].mean(axis=-1))


def _noisy_or(p_all: Scores, policy: "CasePolicy") -> Scores:
    return np.asarray(1.0 - (1.0 - policy.link * p_all).prod(axis=-1))


RULES: dict[str, tuple[Callable[[Scores, "CasePolicy"], Scores], str]] = {
    "mean": (_mean, "the mean probability of ALL over the captures"),
    "positive_share": (_positive_share, "the share of captures whose probability of ALL is {positive_from:g} or more"),
    "top_k_mean": (_top_k_mean, "the mean of the {top_k} highest probabilities of ALL"),
    "noisy_or": (
        _noisy_or,
        "the probability that at least one capture shows ALL, each counting {link:g} times its own (noisy-or)",
    ),
}
"""rule -> (function from P(ALL) [..., captures] to scores [...], meaning of the score). See docs/case-rule.md."""


class CasePolicy(BaseModel):
    """The case rule and its thresholds, stored in the bundle; docs/case-rule.md says when to use which rule.

    Version 1 of the rules, where p_1 ... p_n are P(ALL) = 1 - P(benign label) of the usable captures:

    - `mean`: (p_1 + ... + p_n) / n.
    - `positive_share`: how many of them are at least `positive_from`, divided by n.
    - `top_k_mean`: the mean of the `top_k` largest, or of all if there are fewer.
    - `noisy_or`: 1 - (1 - c p_1) ... (1 - c p_n) with c = `link` (Pearl 1988, section 4.3.2): grows with n.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: RuleName = "mean"
    version: Literal[1] = 1
    benign_at_most: float = Field(ge=0, le=1, description="a score up to this is called benign")
    all_at_least: float = Field(ge=0, le=1, description="a score from this on is called ALL")
    min_captures: int = Field(3, ge=1, description="with fewer usable captures the case is insufficient")
    positive_from: float = Field(0.5, gt=0, le=1, description="positive_share: a capture from this P(ALL) on counts")
    top_k: int = Field(5, ge=1, description="top_k_mean: how many of the highest P(ALL) count")
    link: float = Field(0.1, gt=0, le=1, description="noisy_or: how far one capture alone can raise the score")

    exclude: tuple[MarkCode, ...] = Field(
        DEFAULT_EXCLUDE,
        description="marks that keep a capture out of the score",
    )

    @model_validator(mode="after")
    def _ordered(self) -> "CasePolicy":
        if self.benign_at_most > self.all_at_least:
            raise ValueError("benign_at_most must not exceed all_at_least")
        return self

    @property
    def description(self) -> str:
        """What the score is, in words, with the rule's parameters."""
        return RULES[self.rule][1].format(**self.model_dump())

    def excludes(self, marks: Iterable[str]) -> list[MarkCode]:
        """The codes among `marks` that keep a capture out of the score."""
        codes = set(marks)
        return [code for code in self.exclude if code in codes]

    def scores(self, p_all: Scores) -> Scores:
        """The rule's score: P(ALL) [..., captures] -> [...], each between 0 and 1; at least one capture."""
        return RULES[self.rule][0](p_all, self)
