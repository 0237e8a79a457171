"""The fingerprint: what a dataset is, measured once, small enough to send by mail."""

from autoseg.fingerprint.extract import extract_fingerprint
from autoseg.fingerprint.schema import CaseFingerprint, ClassFingerprint, Fingerprint, IntensityStatistics

__all__ = ["CaseFingerprint", "ClassFingerprint", "Fingerprint", "IntensityStatistics", "extract_fingerprint"]
