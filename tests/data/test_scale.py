"""What a table says of the scale, by hand."""

import pytest

from jaxssl.data.scale import pixel_sizes
from jaxssl.data.tables import Table


@pytest.mark.parametrize(
    ("column", "cell", "size"),
    [
        ("acq_pixel", "73", 73.0),  # UVP6
        ("process_pixel", "0,75", 0.75),  # PlanktoScope, of a European spreadsheet
        ("process_particle_pixel_size_mm", "0.0106", 10.6),  # ZooScan
        ("acq_resolution_pixel_per_micron", "3.4", 1 / 3.4),  # IFCB
        ("object_pixel_size_µm", "5", 5.0),
        ("Pixels per mm", "50", 20.0),
        ("um_per_px", "2.5", 2.5),
        ("acq_pixel", "0.092", 0.0),  # UVP5, in millimetres, and it does not say so
        ("acq_pixel", "-1", 0.0),
        ("acq_pixel", "nan", 0.0),
        ("acq_pixel", "1e9", 0.0),
        ("pixel_size_mm", "50", 0.0),
        ("object_area_pixels", "812", 0.0),
        ("process_subpixel", "8", 0.0),
        ("sample_pixel_count", "8", 0.0),
    ],
)
def test_columns_of_many_names(column, cell, size):
    said, sizes = pixel_sizes(Table("t", "", ("id", column), [["a", cell], ["b", ""]]))
    if size:
        assert sizes == pytest.approx([size, 0.0])
        assert f"{size:.4g} µm" in said
    else:
        assert sizes == []
    assert ("micrometres or millimetres" in said) == (cell == "0.092")


def test_a_unit_goes_before_none_and_a_number_before_a_gap():
    columns = ("acq_pixel", "process_pixel", "pixel_um")
    assert pixel_sizes(Table("t", "", columns, [["7", "8", "9"]]))[1] == [9]
    assert pixel_sizes(Table("t", "", columns, [["", "8", ""]]))[1] == [8]
