import sys


def test_operations_of_a_step_have_times_shapes_and_origins(load_script, monkeypatch, capsys):
    monkeypatch.setenv("ONEDNN_VERBOSE", "0")  # the script sets it: other tests go on in silence
    profile = load_script("benchmarks/profile_step.py")
    arguments = ["convnet", "--pixels", "16", "--images", "4", "--top", "5"]
    monkeypatch.setattr(sys, "argv", ["profile_step.py", *arguments])
    profile.main()
    step, _, *rows = capsys.readouterr().out.splitlines()
    assert step.startswith("a step under the profiler: ")
    operations, kinds = rows[1:6], rows[-5:]
    milliseconds = [float(row.split()[0]) for row in operations]
    assert milliseconds == sorted(milliseconds, reverse=True)
    assert all("f32[" in row or "s32[" in row for row in operations)
    assert {row.split()[1] for row in kinds} <= {"forward", "backward"}
    assert any("jit(step)" in row for row in operations)
