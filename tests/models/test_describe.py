import pytest
from flax import nnx

from jaxssl.models import (
    Classifier,
    ClassWeights,
    ConvNet,
    Embedder,
    ProjectionHead,
    describe,
    freeze,
)


class Model(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        encoder = ConvNet(widths=(4, 6), channels=3, rngs=rngs)
        self.embedder = Embedder(encoder, ProjectionHead(6, kind="linear", rngs=rngs))
        self.classifier = Classifier(128, 5, rngs=rngs)
        self.beside = ClassWeights(5, 128, rngs=rngs)

    def __call__(self, images):
        return self.classifier(self.embedder(images)[1])


@pytest.fixture
def model() -> Model:
    return nnx.eval_shape(lambda: Model(nnx.Rngs(0)))


def rows(table: str) -> list[list[str]]:
    return [line.split("  ") for line in table.split("\n\n")[0].splitlines()]


def cells(line: list[str]) -> list[str]:
    return [cell.strip() for cell in line if cell.strip()]


def test_layers_stand_in_the_order_of_the_calls_with_hand_counted_parameters(model):
    freeze(model.embedder.encoder)
    table = describe(model, (9, 8, 3))
    assert [cells(row) for row in rows(table)] == [
        ["layer", "type", "output", "parameters"],
        ["embedder/encoder/convs/0", "Conv", "[5, 4, 4]", "108", "frozen"],
        ["embedder/encoder/norms/0", "BatchNorm", "[5, 4, 4]", "8", "frozen"],
        ["embedder/encoder/convs/1", "Conv", "[3, 2, 6]", "216", "frozen"],
        ["embedder/encoder/norms/1", "BatchNorm", "[3, 2, 6]", "12", "frozen"],
        ["embedder/head/linears/0", "Linear", "[128]", "896", "trainable"],
        ["classifier", "Classifier", "[5]", "645", "trainable"],
        ["beside", "ClassWeights", "640", "trainable"],
    ]
    totals = [cells(line.split("  ")) for line in table.split("\n\n")[1].splitlines()]
    assert totals == [
        ["total", "2,525"],
        ["trainable", "2,181"],
        ["frozen", "344"],
        ["batch statistics", "20"],
    ]


def test_describing_changes_nothing(model):
    graphdef, state = nnx.split(model)
    describe(model, (8, 8, 3))
    after = nnx.split(model)
    assert after[0] == graphdef
    assert after[1] == state
