"""Figures (:mod:`vaesc.report.figures`) and the self-contained HTML report (:mod:`.html`)."""
