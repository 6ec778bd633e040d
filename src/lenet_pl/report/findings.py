"""What the figures of a run say, and what to try next.

What has a command rests on training and validation images: whoever acts on it has not yet
looked at the test set. A check that fires needs evidence beyond chance; its thresholds stand,
with their reasons, at the top of :mod:`learning`, :mod:`mistakes` and :mod:`rates`.
"""

from dataclasses import replace

from lenet_pl.console import percent
from lenet_pl.report import learning, mistakes, rates
from lenet_pl.report.figures import Figures, Finding

CHECKS = (  # what must be mended first comes first
    rates.too_high,
    rates.one_answer,
    learning.underfitting,
    learning.overfitting,
    mistakes.small_data,
    learning.still_improving,
    rates.too_low,
    learning.stopped_too_early,
    mistakes.few_pairs,
    mistakes.weak_class,
    mistakes.miscalibration,
    mistakes.ambiguous,
    mistakes.unlike_test,
)


def find(f: Figures) -> list[Finding]:
    """The findings, the most urgent first; a single good one where nothing stands out."""
    found: list[Finding] = []
    for check in CHECKS:
        if finding := check(f):
            if finding.alone:
                return [finding]
            if finding.overrides and finding.overrides in {other.overrides for other in found}:
                finding = replace(finding, advice="As above.", overrides=())
            found.append(finding)
    return found or [all_well(f)]


def all_well(f: Figures) -> Finding:
    """Nothing stands out; the change that is most often worth it."""
    if not f.settings.scheduler:
        advice, override = "Most worth trying: a learning-rate schedule.", "scheduler=onecycle"
    elif not f.settings.augment:
        advice, override = "Most worth trying: augmentation.", "augment=affine"
    else:
        advice, override = "Most worth trying: another seed, to see what is luck.", "seed=1"
    return Finding(
        "All is well: nothing stands out",
        f"{percent(f.train.value)} of training and {percent(f.val.value)} of validation images "
        f"are right; the curves are calm, the mistakes spread, the confidence honest.",
        advice,
        (override,),
        kind="good",
    )
