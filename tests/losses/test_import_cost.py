import subprocess
import sys


def test_losses_import_nothing_beyond_jax():
    program = (
        "import sys, jax; before = set(sys.modules)\n"
        "from jaxssl.losses import nt_xent\n"
        "print(*{name for name in set(sys.modules) - before if name.split('.')[0] != 'jaxssl'})\n"
        "print(*{n for n in sys.modules if n.startswith('jaxssl.') and '.losses' not in n})"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["jaxssl.lowering"]  # which imports jax alone
