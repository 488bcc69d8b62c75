"""How well grey values tell images of one modality from those of another: ``artifacts/greys.py``.

    python -m benchmarks.lookalike data-1 data-2 ...

Half of the patients of each modality, drawn anew each time, are learned; the others, and all images
of the other modalities, are looked at. Told are the share of the held-out images that look unlike,
and in how many draws a modality would have been warned of.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medxlate.artifacts.greys import Greys
from medxlate.dataset.index import Dataset
from medxlate.images.recipes import to_network
from medxlate.inference.out_of_distribution import Looks

Images = npt.NDArray[np.float32]
SIDE = 64  # pixels


def read(folder: Path) -> dict[str, tuple[Images, npt.NDArray[np.str_]]]:
    """Return images [N, 1, 64, 64] and patients [N] of each modality of a dataset."""
    dataset, found = Dataset(folder), {}
    for name in dataset.info.modalities:
        modality = dataset.modality(name)
        rows = range(len(modality.slices))
        images = np.stack([to_network(modality.read([row])[0], SIDE) for row in rows])
        patients = modality.slices["patient"].to_numpy(dtype=str)
        found[f"{folder.name}/{name}"] = (images[:, np.newaxis], patients)
    return found


def warned(greys: Greys, images: Images) -> bool:
    """Return whether images would be warned of."""
    unlike = greys.unlike(images)
    return bool(Looks(len(unlike), int(unlike.sum())).notes(""))


def main() -> None:
    """Print a line a modality."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+", type=Path, help="dataset folders")
    parser.add_argument("--draws", type=int, default=12)
    parser.add_argument("--patients", type=int, default=1000, help="learned at most")
    words = parser.parse_args()
    sets = {name: found for folder in words.data for name, found in read(folder).items()}
    random = np.random.default_rng(0)
    for name, (images, patients) in sets.items():
        people, shares, alarms = np.unique(patients), [], dict.fromkeys(sets, 0)
        for _ in range(words.draws):
            count = min(words.patients, len(people) // 2)
            learned = np.isin(patients, random.permutation(people)[:count])
            greys = Greys.of([images[learned]], patients[learned].tolist())
            assert greys is not None, "too few patients"
            shares.append(float(greys.unlike(images[~learned]).mean()))
            alarms[name] += warned(greys, images[~learned])
            for other in set(sets) - {name}:
                alarms[other] += warned(greys, sets[other][0])
        others = ", ".join(f"{other} {count}" for other, count in alarms.items() if other != name)
        print(
            f"{name}: {np.mean(shares):.0%} of held-out images unlike (at most {max(shares):.0%}), "
            f"warned {alarms[name]} of {words.draws}; {others}",
            flush=True,
        )


if __name__ == "__main__":
    main()
