"""Verification of a dataset: all problems in one pass, each with its remedy."""

from collections.abc import Iterator, Sequence
from itertools import chain

from autoseg.core.artefact import Artefact
from autoseg.core.errors import DatasetError
from autoseg.core.labels import Labels
from autoseg.core.parallel import parallel_map
from autoseg.core.progress import Progress
from autoseg.data.check_case import CaseFindings, CaseToCheck, check_case
from autoseg.data.dataset import Dataset
from autoseg.data.problem import Problem, Severity

HIGHEST_OF_AIR = -500.0
"""Where half of the scans reach as low as air in CT, -1000 HU, and its noise, they are taken for CT."""


class CheckReport(Artefact):
    """What is wrong with a dataset.

    Attributes:
        problems: In the order of the cases; first those of names and lists, last those between cases.
        num_cases: Labelled cases that were read.
    """

    problems: tuple[Problem, ...]
    num_cases: int

    @property
    def errors(self) -> tuple[Problem, ...]:
        """Problems that a plan refuses."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """Problems that a plan goes on with."""
        return tuple(problem for problem in self.problems if problem.severity == "warning")


def check_dataset(dataset: Dataset, progress: Progress, num_workers: int) -> CheckReport:
    """Read every labelled case, and the headers of the others, and return all that is wrong.

    Rules, as in `Problem.rule`:
        partner, name, unlisted, count: files and lists (found by `open_dataset`)
        missing, format, readable, whole: a file can be read to its end
        dimensions, channels, label-channels: axes and channels are as declared
        shape, spacing, origin, direction: grids are usable and agree within a case, see `grid_differences`
        finite, constant, hounsfield: intensities
        lossless, integer, labels, empty-label, class-absent: label maps and classes
        duplicate: the same scan under two names

    Each process holds one case at a time.

    Raises:
        DatasetError: If a process dies, for example for want of memory.
    """
    items = cases_to_check(dataset)
    findings = []
    with progress.task("check", len(items)) as task:
        for found in parallel_map(check_case, items, num_workers, lambda item: item.case.name, DatasetError):
            findings.append(found)
            task.advance()
    return report_on(dataset, findings)


def cases_to_check(dataset: Dataset) -> list[CaseToCheck]:
    """Return every case of a dataset: first the labelled ones, then the others."""
    return [CaseToCheck(case, dataset.channels, dataset.labels) for case in (*dataset.cases, *dataset.unlabelled)]


def report_on(dataset: Dataset, findings: Sequence[CaseFindings]) -> CheckReport:
    """Return all that is wrong with a dataset, from what was found in each of its cases."""
    problems = chain(
        dataset.problems,
        chain.from_iterable(found.problems for found in findings),
        _absent_classes(dataset.name, findings, dataset.labels),
        _duplicates(findings),
        _unnamed_ct(dataset, findings),
    )
    return CheckReport(problems=tuple(problems), num_cases=len(dataset.cases))


def _absent_classes(name: str, findings: Sequence[CaseFindings], labels: Labels) -> Iterator[Problem]:
    present = {value for found in findings for value in found.values}
    if not present:
        return
    for label in labels.classes[1:]:
        if label.value not in present:
            yield Problem(
                severity="warning",
                rule="class-absent",
                file=name,
                message=f"each declared class should occur, got no voxel of {label.name} ({label.value}) in any case",
                remedy="Remove the class from dataset.json, or add cases that have it",
            )


def _unnamed_ct(dataset: Dataset, findings: Sequence[CaseFindings]) -> Iterator[Problem]:
    """Yield a problem for each channel whose values look like Hounsfield units, under another name than CT."""
    read = [found.lowest for found in findings if len(found.lowest) == len(dataset.channels)]
    for number, name in enumerate(dataset.channels):
        low = [lowest[number] for lowest in read if lowest[number] <= HIGHEST_OF_AIR]
        if name.casefold() != "ct" and 2 * len(low) > len(read):
            yield Problem(
                severity="warning",
                rule="hounsfield",
                file=dataset.name,
                message="a channel of CT must be called CT to keep its Hounsfield units, got values down to"
                f" {min(low):g} in {len(low)} of {len(read)} cases of the channel {name}",
                remedy=f'Call it so in dataset.json, "channel_names": {{"{number}": "CT"}} (in the layout of the'
                ' Decathlon "modality"), unless it is something else',
            )


def _duplicates(findings: Sequence[CaseFindings]) -> Iterator[Problem]:
    """Yield a problem for each case whose voxels are those of an earlier one.

    A warning where the labels agree or the two stand in one group; an error where different labels claim the truth for
    one scan and could stand on both sides of a split.
    """
    first_by_digest: dict[str, CaseFindings] = {}
    for found in findings:
        if found.image_digest is None:
            continue
        first = first_by_digest.setdefault(found.image_digest, found)
        if first is found:
            continue
        is_same_label, is_same_group = first.label_digest == found.label_digest, first.case.group == found.case.group
        severity: Severity = "warning" if is_same_label or is_same_group else "error"
        leak = "" if is_same_group else "; a split could learn from one and be tested on the other"
        labels = "the same label" if is_same_label else "another label"
        yield Problem(
            severity=severity,
            rule="duplicate",
            file=found.case.images[0],
            message=f"scans must differ between cases, got the voxels of {first.case.name} with {labels}{leak}",
            remedy="Remove one of the two, or hold them together with --group-by",
        )
