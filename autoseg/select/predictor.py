"""What a selection says, as a predictor: its configurations segment a scan together, and postprocessing follows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.core.labels import Labels
from autoseg.data.image import Image, LabelImage
from autoseg.infer.case import Model, Onlooker, Settings
from autoseg.infer.predictor import Predictor, predict_file
from autoseg.infer.unlike import Familiar
from autoseg.preprocess.case import Prepared
from autoseg.select.ensemble import Member, segment_together
from autoseg.select.postprocess import Postprocessing, postprocess


@dataclass(frozen=True)
class SelectedPredictor:
    """Configurations that segment together, loaded once, and what is done to their label maps.

    Attributes:
        members: One per configuration, of one plan.
        postprocessing: Of label maps; probabilities are left as they are.
    """

    members: tuple[Predictor, ...]
    postprocessing: Postprocessing

    @property
    def model(self) -> Model:
        """That of the first configuration."""
        return self.members[0].model

    @property
    def settings(self) -> Settings:
        """Those of the first configuration."""
        return self.members[0].settings

    @property
    def familiar(self) -> Familiar | None:
        """What the networks know."""
        return self.members[0].familiar

    def prepare(self, image: Image, name: str = "image") -> Prepared:
        """Return a scan as each configuration sees it; see `Predictor.prepare`."""
        first, *others = (member.prepare(image, name) for member in self.members)
        return replace(first, others=tuple(others))

    def predict(self, image: Image) -> LabelImage:
        """Return the label map of a scan; see `Predictor.predict`."""
        return self.predict_prepared(self.prepare(image))

    def predict_file(self, images: Sequence[Path], output: Path) -> LabelImage:
        """Segment a scan from files to a file; see `Predictor.predict_file`."""
        return predict_file(self, images, output)

    def predict_prepared(
        self, prepared: Prepared, report: Callable[[float], None] = lambda _: None, onlooker: Onlooker | None = None
    ) -> LabelImage:
        """Return the label map of a prepared scan, telling `report` of every share of the work that is done."""
        if len(self.members) == 1:
            label = self.members[0].predict_prepared(prepared, report, onlooker)
        else:
            views = (prepared, *prepared.others)
            together = [
                Member(view, member.model, member.settings) for view, member in zip(views, self.members, strict=True)
            ]
            (label,) = segment_together(together, [range(len(together))], report, onlooker)
        return postprocessed(label, self.model.plan.labels, self.postprocessing)

    def by_fold(self, prepared: Prepared) -> Iterator[LabelImage]:
        """Give the label map that the networks of each fold find without the others."""
        num_folds = min(len(member.model.networks) for member in self.members)
        for fold in range(num_folds):
            alone = tuple(
                replace(member, model=replace(member.model, networks=member.model.networks[fold : fold + 1]))
                for member in self.members
            )
            yield replace(self, members=alone).predict_prepared(prepared)


def postprocessed(label: LabelImage, labels: Labels, postprocessing: Postprocessing) -> LabelImage:
    """Return a label map, in the values of its dataset, after postprocessing."""
    if postprocessing == Postprocessing():
        return label
    indices = postprocess(labels.to_indices(label.array), label.geometry.spacing, labels, postprocessing)
    return replace(label, array=labels.to_values(indices))
