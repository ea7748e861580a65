"""What the packaged model imports against what its requirements bring."""

import subprocess
import sys
from importlib.metadata import packages_distributions

from components.packaging import REQUIREMENTS, input_example, signature


def test_requirements_bring_all_that_the_packaged_code_imports() -> None:
    """Modules that components.serving's own files import, asked of a fresh interpreter."""
    code = (
        "import builtins, sys\n"
        "plain, found = builtins.__import__, set()\n"
        "def note(name, globals=None, locals=None, fromlist=(), level=0):\n"
        "    if level == 0 and globals and str(globals.get('__name__', '')).startswith('components'):\n"
        "        found.add(name.split('.')[0])\n"
        "    return plain(name, globals, locals, fromlist, level)\n"
        "builtins.__import__ = note\n"
        "import components.serving, components.models.gan, components.models.vae\n"
        "print(*sorted(found - set(sys.stdlib_module_names) - {'components'}))\n"
    )
    imported = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert {"torch", "mlflow"} <= set(imported)
    distributions = packages_distributions()
    missing = [name for name in imported if not {d.lower() for d in distributions[name]} & set(REQUIREMENTS)]
    assert missing == []


def test_telemetry_is_off_without_our_services() -> None:
    code = (
        "import components.tracking\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled\n"
        "print(is_telemetry_disabled())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env={"PATH": ""})
    assert done.stdout.strip() == "True"


def test_a_request_without_conditions_has_n_and_seed_alone() -> None:
    asked = signature({})
    assert asked.inputs.input_names() == ["n", "seed"]
    assert asked.outputs.input_names() == ["seed", "index", "png"]
    assert input_example({}).to_dict("records") == [{"n": 1, "seed": 1}]
