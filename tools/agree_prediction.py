"""Predicts with nnU-Net's own models in nnU-Net and in autoseg, and prints where the label maps differ and why.

    python -m tools.agree_prediction FOLDER --nnunet-bin ENVIRONMENT/bin

FOLDER is what `tools/train_nnunet_models.py` has written: models in `results`, scans in `images`. nnU-Net predicts as
it does, and once more with sums in float32 instead of half precision (`tools/nnunet_predict.py`); autoseg in float32,
then with tiles that weigh most in their middle, as those of its own models do, and at last as it does unless told
otherwise.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from autoseg.core.geometry import box_slices
from autoseg.data.image import read_image, read_label, write_label
from autoseg.infer.case import Onlooker
from autoseg.infer.predictor import Predictor
from autoseg.plan.schema import GaussianCentre
from tools.nnunet_subjects import Agreement, Subject, agreement, subjects_in

NNUNET_SCRIPT = Path(__file__).with_name("nnunet_predict.py")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nnunet-bin", type=Path, required=True, help="folder of nnU-Net's commands")
    parser.add_argument("--models", default="", help="only those whose path contains this")
    parser.add_argument("--cases", type=int, help="scans per model; all if left out")
    given = parser.parse_args()
    print("Voxels that differ from nnU-Net's, and in brackets the lowest Dice of a class in a scan:\n")
    print(
        "| model | scans | voxels | foreground found | Dice of all scans, class by class | float32"
        " | float32, tiles weigh most in their middle | default precision | float32, nnU-Net's sums in float32"
        " | clearest decision that differs |"
    )
    print(f"|{'---|' * 10}")
    with tempfile.TemporaryDirectory() as scratch:
        for subject in subjects_in(given.folder, Path(scratch), given.models, given.cases):
            _compare(subject, given.nnunet_bin)


def _compare(subject: Subject, nnunet_bin: Path) -> None:
    scratch = subject.place.root.parent
    theirs = _predict_with_nnunet(subject, nnunet_bin, scratch)
    usual = subject.predictor()
    networks = tuple(_Remembering(network) for network in usual.model.networks)
    settings = replace(usual.settings, precision="float32")
    float32 = replace(usual, model=replace(usual.model, networks=networks), settings=settings)
    leads = _predict(float32, subject, scratch / "ours")
    _predict(_centred(float32, "middle"), subject, scratch / "ours_middle")
    _predict(usual, subject, scratch / "ours_default")
    pairs = (("ours", "half"), ("ours_middle", "half"), ("ours_default", "half"), ("ours", "float32"))
    found = [agreement(scratch / ours, theirs / sums) for ours, sums in pairs]
    foreground = {value: count for value, count in found[0].found.items() if value}
    cells = (
        subject.name,
        len(leads),
        f"{found[0].num_voxels:,}",
        ", ".join(f"{count:,}" for count in foreground.values()) or "none",
        ", ".join(f"{found[0].dice[value]:.4f}" for value in foreground),
        *(_differing(entry) for entry in found),
        f"{_clearest(leads, scratch / 'ours', theirs / 'half'):.2g}",
    )
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def _differing(found: Agreement) -> str:
    return f"{found.num_different:,} ({found.lowest_dice:.4f})"


def _predict_with_nnunet(subject: Subject, nnunet_bin: Path, scratch: Path) -> Path:
    """Return the folder of nnU-Net's label maps."""
    previous: list[object] = []
    output = scratch
    for number, model in enumerate(filter(None, (subject.earlier, subject.folder))):
        output = scratch / f"theirs_{number}"
        command = [nnunet_bin / "python", NNUNET_SCRIPT, model, subject.images, output, *previous]
        ended = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        if ended.returncode:
            sys.exit(f"{command}: failed\n{ended.stdout}{ended.stderr}")
        previous = ["--previous", output]
    return output


class _Remembering(nn.Module):
    """A network that computes the same input once."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: dict[bytes, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        key = hashlib.sha256(x.numpy().tobytes()).digest()
        if key not in self.seen:
            self.seen[key] = self.network(x)
        return self.seen[key]


def _centred(predictor: Predictor, centre: GaussianCentre) -> Predictor:
    """Return a predictor whose tiles weigh most elsewhere; in a cascade those of the first stage too."""
    model = predictor.model
    if model.earlier is not None:
        model = replace(model, earlier=_centred(Predictor(model.earlier, predictor.settings), centre).model)
    inference = model.plan.inference.model_copy(update={"gaussian_centre": centre})
    return replace(predictor, model=replace(model, plan=model.plan.model_copy(update={"inference": inference})))


def _predict(predictor: Predictor, subject: Subject, output: Path) -> dict[str, NDArray[np.float32]]:
    """Write label maps; return how clear the decision was at every voxel, by file name.

    That is the lead of the highest logit over the second; where outputs are regions, the smallest distance from 0.
    """
    is_regions = bool(predictor.model.plan.labels.regions)
    leads = {}
    for path in sorted(subject.images.iterdir()):
        prepared = predictor.prepare(read_image((path,)), path.name)
        properties = prepared.properties
        lead = np.zeros(properties.cropped_shape, np.float32)

        def observe(place: tuple[slice, ...], logits: Tensor, lead: NDArray[np.float32] = lead) -> None:
            highest = logits.abs().neg() if is_regions else logits.topk(2, dim=0).values
            lead[place] = highest.amax(0).neg() if is_regions else highest[0] - highest[1]

        name = path.name.replace("_0000", "")
        write_label(output / name, predictor.predict_prepared(prepared, onlooker=Onlooker(observe)))
        whole = np.full([properties.original_shape[axis] for axis in properties.transpose], np.inf, np.float32)
        whole[box_slices(properties.crop_box)] = lead
        leads[name] = whole.transpose(np.argsort(properties.transpose))
    return leads


def _clearest(leads: Mapping[str, NDArray[np.float32]], ours: Path, theirs: Path) -> float:
    """Return how clear the decision was, at most, where the label maps differ; 0 where they do not."""
    clear = [0.0]
    for name, lead in leads.items():
        differs = read_label(ours / name).array != read_label(theirs / name).array
        clear.extend(lead[differs].tolist())
    return max(clear)


if __name__ == "__main__":
    main()
