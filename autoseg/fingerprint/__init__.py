"""The fingerprint: what a dataset is, measured once, small enough to send by mail."""

from autoseg.fingerprint.extract import check_and_measure, extract_fingerprint, pool_cases
from autoseg.fingerprint.schema import CaseFingerprint, ClassFingerprint, Fingerprint, IntensityStatistics

__all__ = [
    "CaseFingerprint",
    "ClassFingerprint",
    "Fingerprint",
    "IntensityStatistics",
    "check_and_measure",
    "extract_fingerprint",
    "pool_cases",
]
