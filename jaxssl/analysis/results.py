"""All the numbers of a run as one value: `Results`, written once as `results.json`.

A number that does not exist (the silhouette of one class) is None, and null in the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxssl.analysis.distances import Metric
from jaxssl.analysis.health import Spread
from jaxssl.analysis.typed import decode
from jaxssl.errors import InputError
from jaxssl.files import plain, read_json, write_record

Matrix = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class Embedded:
    """Which embedding was judged.

    Args:
        layer: The layer that it is the output of, "h" for the encoder's.
        distance: The distance that it was trained for.
        dimensions: d.
    """

    layer: str
    distance: Metric
    dimensions: int


@dataclass(frozen=True)
class ImageCounts:
    """How many images a set has.

    Args:
        images: In all.
        classes: Class -> its images, of those that have a label.
    """

    images: int
    classes: Mapping[str, int]

    @property
    def unlabelled(self) -> int:
        """Images without a label."""
        return self.images - sum(self.classes.values())


@dataclass(frozen=True)
class Distances:
    """Mean distances between the images of two classes, on the diagonal over distinct pairs.

    Args:
        classes: k names, of rows and columns.
        euclidean: `[k][k]`; None on the diagonal for a class of one image.
        angular: The same in degrees.
    """

    classes: tuple[str, ...]
    euclidean: Matrix
    angular: Matrix

    def __post_init__(self) -> None:
        _check_square(self.euclidean, self.classes, "euclidean")
        _check_square(self.angular, self.classes, "angular")


@dataclass(frozen=True)
class Separation:
    """Mean distance between classes over mean distance within, above 1 where classes stand apart.

    Args:
        euclidean: Of Euclidean distances.
        angular: Of angles.
    """

    euclidean: float | None
    angular: float | None


@dataclass(frozen=True)
class RetrievalScores:
    """What images find that each query all the others of their set (`retrieval.retrieval`).

    Args:
        precision_at_1: Share whose nearest is of their class.
        r_precision: Share of their class among the R nearest, R its other images.
        map_at_r: Mean average precision over the R nearest.
        queries: How many queried: all that are not alone in their class.
    """

    precision_at_1: float | None
    r_precision: float | None
    map_at_r: float | None
    queries: int


@dataclass(frozen=True)
class Exemplar:
    """One image that stands for a class, or does not.

    Args:
        id: Its name.
        class_name: Its own class.
        distance: From the centre of the class that it is shown with; degrees for "angular".
    """

    id: str
    class_name: str
    distance: float


@dataclass(frozen=True)
class ClassExemplars:
    """The typical and the odd images of a class (`exemplars.exemplars`).

    Args:
        closest: Of the class, the nearest to its centre first.
        farthest: Of the class, the farthest first.
        closest_of_others: Of other classes, the nearest to its centre first.
    """

    closest: tuple[Exemplar, ...]
    farthest: tuple[Exemplar, ...]
    closest_of_others: tuple[Exemplar, ...]


@dataclass(frozen=True)
class Cluster:
    """A group of look-alikes (`clusters.find_clusters`).

    Args:
        images: How many.
        central: Ids of those nearest to its centre, the nearest first.
        classes: Class -> its images in the cluster, the most first; {} where none has a label.
    """

    images: int
    central: tuple[str, ...]
    classes: Mapping[str, int]


@dataclass(frozen=True)
class Clusters:
    """The clusters of all images of a run, found by h alone.

    Args:
        silhouettes: Number of clusters tried -> mean silhouette; the highest was taken.
        clusters: The largest first.
        members: Set -> the cluster of each row of its table, from 0.
    """

    silhouettes: Mapping[str, float | None]
    clusters: tuple[Cluster, ...]
    members: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Outlier:
    """An image unlike all others (`outliers.find_outliers`).

    Args:
        id: Its name.
        set: Its set.
        class_name: Its class, "" where it has no label.
        distance: Mean distance to its nearest others; degrees for "angular".
        isolation: That over the mean of the same of these others: 1 where it lies as densely.
    """

    id: str
    set: str
    class_name: str
    distance: float
    isolation: float


@dataclass(frozen=True)
class Suspect:
    """An image whose label, picture or split is probably wrong (`suspects.find_suspects`).

    Args:
        id: Its name.
        set: Its set.
        class_name: Its class, "" where it has no label.
        proposed: The class that its neighbours say, "" where nothing speaks for another.
        score: The higher, the more suspect; 0 to 4.
        why: A sentence for each reason.
        twin: Id of the image that it is a copy of, "" for none.
    """

    id: str
    set: str
    class_name: str
    proposed: str
    score: float
    why: tuple[str, ...]
    twin: str = ""


@dataclass(frozen=True)
class LabelRow:
    """One point of a label-efficiency curve (`probes.label_efficiency`).

    Args:
        set: The unseen set; "test" where there is none.
        embedding: "h" or a baseline.
        classifier: "svc", "linear" or "knn"; "spread" or "propagated".
        labels: How many images were labelled.
        mean: Balanced accuracy, mean over draws.
        low: Of its 95 % interval.
        high: Of its 95 % interval.
        draws: Random draws of the labels.
        all: Whether these are all the labels there are, the whole pool.
    """

    set: str
    embedding: str
    classifier: str
    labels: int
    mean: float
    low: float
    high: float
    draws: int
    all: bool = False


@dataclass(frozen=True)
class Classification:
    """What a classifier gets right on the test images, and what it takes for what.

    Args:
        accuracy: Share of all images.
        top: n -> share of images whose class is among the first n guesses, for n of 1, 3, 5 that
            are fewer than the classes.
        per_class: Class -> share of its images, None for a class without.
        confusion: `[i][j]` counts the images of class i that it gives to class j.
        classes: k names.
    """

    accuracy: float
    top: Mapping[str, float]
    per_class: Mapping[str, float | None]
    confusion: tuple[tuple[int, ...], ...]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_square(self.confusion, self.classes, "confusion")


@dataclass(frozen=True)
class Facts:
    """What training knows of a run and its tables do not.

    Args:
        protocol: How it was judged: `seed`, `layer`, `judged` ("best" or "last"), and whatever else
            belongs beside the numbers (a fine-tuned run's `start` and `trained`).
        training: What training took: `seconds`, `images_per_second`, `last_step`, `best_step`.
        wall_seconds: Stage ("training", "embedding", ...) -> its seconds.
        classification: Of the run's own classifier, where it has one.
    """

    protocol: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    wall_seconds: Mapping[str, float | None] = field(default_factory=dict)
    classification: Classification | None = None


@dataclass(frozen=True)
class Results:
    """Everything that is known of a run in numbers; `analyse` makes it.

    Args:
        embedding: What was judged.
        sets: Set -> its images, of all sets, "train" and "val" too.
        spread: Judged set -> how much of its space h fills, images without a label counted; of the
            training images where no set is judged.
        clusters: Of all images; None where there are fewer than 3.
        outliers: Of all images, the farthest from the others first.
        distances: Judged set -> mean distances of h class by class.
        suspects: Of all images, the most suspect first.
        separation: Judged set of two classes or more -> embedding -> separation.
        retrieval: The same of retrieval.
        nearest_right: Judged set of two classes or more -> class -> share of its images whose
            nearest other image by h is of the class; None for a class of one image.
        nmi: As `retrieval`, of the mutual information of classes and k-means clusters, 0 to 1.
        silhouette: The same of the mean silhouette, -1 to 1.
        exemplars: Judged set -> class -> its typical and odd images.
        label_efficiency: The curves, of unseen sets with two classes of two images or more;
            without unseen sets, of the test images.
        label_sizes: The numbers of labels that were asked for; () for those by default.
        knn_accuracy: Of h: share of test images whose class wins the vote of the 200 nearest
            training images; None where the test images have other classes, or no labels.
        protocol: As `Facts`.
        training: As `Facts`.
        wall_seconds: As `Facts`.
        classification: As `Facts`.
    """

    embedding: Embedded
    sets: Mapping[str, ImageCounts]
    spread: Mapping[str, Spread] = field(default_factory=dict)
    clusters: Clusters | None = None
    outliers: tuple[Outlier, ...] = ()
    suspects: tuple[Suspect, ...] = ()
    distances: Mapping[str, Distances] = field(default_factory=dict)
    separation: Mapping[str, Mapping[str, Separation]] = field(default_factory=dict)
    retrieval: Mapping[str, Mapping[str, RetrievalScores]] = field(default_factory=dict)
    nearest_right: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    nmi: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    silhouette: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    exemplars: Mapping[str, Mapping[str, ClassExemplars]] = field(default_factory=dict)
    label_efficiency: tuple[LabelRow, ...] = ()
    label_sizes: tuple[int, ...] = ()
    knn_accuracy: float | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    wall_seconds: Mapping[str, float | None] = field(default_factory=dict)
    classification: Classification | None = None

    @property
    def trained(self) -> bool:
        """Whether it was trained: False for a network that is judged as it was published."""
        return self.training.get("last_step") != 0

    @property
    def facts(self) -> Facts:
        """What training knew, to analyse the same run again."""
        return Facts(self.protocol, self.training, self.wall_seconds, self.classification)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write `results.json`, whole or not at all.

        Args:
            path: The file; its folder must exist.
        """
        write_record(Path(path), plain(self))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Results:
        """Read what `write` has written.

        Args:
            path: The file.

        Returns:
            A value equal to the one that was written.

        Raises:
            InputError: It is missing, or a field is missing or of another type; one line names
                file and field.
        """
        file = Path(path)
        if not os.path.lexists(file):
            raise InputError(f"{file}: no such file; finish the run, or analyse it again")
        return decode(cls, read_json(file), file)


def _check_square(matrix: tuple[tuple[Any, ...], ...], classes: tuple[str, ...], name: str) -> None:
    if [len(row) for row in matrix] != [len(classes)] * len(classes):
        raise ValueError(f"{name} is not [k, k] for its {len(classes)} classes")
