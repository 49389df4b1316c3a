import os
import sys

import numpy as np
import pytest

from jaxssl import lowering


@pytest.mark.one_device
def test_every_form_is_timed_beside_what_is_taken(load_script, monkeypatch, capsys, onednn):
    script = load_script("benchmarks/forms.py")
    monkeypatch.setattr(sys, "argv", ["forms.py", "--quick"])
    monkeypatch.setattr(lowering, "CORES", lowering.CORES)  # the script sets it
    mine = os.sched_getaffinity(0)
    try:
        script.main()
    finally:
        os.sched_setaffinity(0, mine)
    rows = [row.split("|") for row in capsys.readouterr().out.splitlines()[2:]]
    assert [row[2].strip() for row in rows] == list(script.WORKS)
    for row in rows:
        assert float(row[5]) >= 1
        assert {"windows", "tiles of 2", "tiles of 4", "XLA"} <= {
            part.strip().rsplit(" ", 1)[0] for part in row[4].split(";")
        }


@pytest.mark.parametrize("case", [((2, 6, 6, 5), (3, 3, 5, 4), 1), ((2, 6, 6, 5), (1, 1, 5, 4), 2)])
@pytest.mark.one_device
def test_all_forms_compute_the_same(case, load_script, onednn):
    script, (shape, kernel_shape, stride) = load_script("benchmarks/forms.py"), case
    random, pad = np.random.default_rng(0), kernel_shape[0] // 2
    x, kernel = (random.standard_normal(s).astype(np.float32) for s in (shape, kernel_shape))
    places = -(-shape[1] // stride)
    gradient = random.standard_normal((2, places, places, 4)).astype(np.float32)
    for work in script.WORKS:
        named = script.forms(work, kernel_shape[0], (stride, stride), ((pad, pad), (pad, pad)))
        found = {name: np.ravel(form(x, kernel, gradient)) for name, form in named.items()}
        for name, numbers in found.items():
            np.testing.assert_allclose(numbers, found["XLA"], atol=1e-4, err_msg=name)
