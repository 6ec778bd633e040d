"""A run on one page: how good, where wrong, why, and what next."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lenet_pl.evaluation.evidence import RunEvaluation
from lenet_pl.metrics import (
    confusion_matrix,
    expected_calibration_error,
    negative_log_likelihood,
    per_class_scores,
    wilson_interval,
)
from lenet_pl.report import page
from lenet_pl.report.figures import Finding
from lenet_pl.report.findings import find
from lenet_pl.report.images import draw


def write_report(evidence: RunEvaluation) -> tuple[Path, list[Finding]]:
    """Write ``RUN/report/index.html`` with its pictures beside it, and into TensorBoard.

    Returns:
        The path of the page, and the findings.

    Raises:
        ConfigError: if the folder cannot be written to.
    """
    figures = evidence.figures()
    findings = find(figures)
    pictures, galleries = draw(evidence)
    context = {
        **summary(evidence),
        **galleries,
        "figures": pictures,
        "findings": [asdict(f) | {"command": f.command(figures.settings)} for f in findings],
        "train": figures.train,
    }
    html = page.render("report.html.j2", context)
    path = page.write(evidence.run.folder / "report", html, pictures)
    page.add_to_dashboard(evidence.run.folder, pictures, evidence.epoch)
    return path, findings


def summary(evidence: RunEvaluation) -> dict[str, Any]:
    """The words and numbers of the page."""
    run, shown = evidence.run, evidence.shown
    result, share = run.result, shown.accuracy
    recorded = result.get("metrics", {}).get(f"{shown.split}/acc", share.value)
    config = OmegaConf.masked_copy(run.config, [str(key) for key in run.config if key != "hydra"])
    scores = per_class_scores(confusion_matrix(shown.logits, shown.labels))
    return {
        "name": evidence.name,
        "folder": run.folder.as_posix(),
        "checkpoint": run.checkpoint.name,
        "model": evidence.model,
        "data": evidence.data.source.name,
        "pooled": evidence.pooled,
        "grey": shown.images.shape[1] == 1,
        "classes": run.classes,
        "shown": shown,
        "share": share,
        "low_high": wilson_interval(share.count, share.total),
        "validation": evidence.val.accuracy,
        "differs": recorded if abs(recorded - share.value) * share.total > 0.5 else None,
        "status": result.get("status", "unfinished"),
        "error": result.get("error"),
        "epoch": evidence.epoch,
        "epochs": len(evidence.rows),
        "stopped_early": result.get("stopped_early", False),
        "parameters": sum(p.numel() for p in evidence.network.net.parameters()),
        "counts": {name: len(split) for name, split in evidence.data.splits.items()},
        "seconds": (result.get("seconds") or {}).get("epoch_median"),
        "overrides": evidence.overrides,
        "ece": expected_calibration_error(shown.logits, shown.labels),
        "confidence": shown.logits.double().softmax(1).amax(1).mean().item(),
        "likelihood": negative_log_likelihood(shown.logits, shown.labels),
        "scores": list(zip(run.classes, scores, strict=True)),
        "weakest": min(scores, key=lambda score: score.f1).f1,
        "config": OmegaConf.to_yaml(config),
        "versions": result.get("versions") or {},
        "git": result.get("git"),
        "origin": evidence.data.origin,
        "device": result.get("device"),
    }
