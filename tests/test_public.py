"""The front door: the public names of each package, light until one is asked for."""

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import wheels

ROOT = Path(__file__).parent.parent
PUBLIC = """
    DecodeParams Method Model Pair PretrainConfig RemotePair RemoteTeacher Rule Sampling TextPair Trace TrainConfig
    WheelsError
    __version__ agents
    annotation bild calibrate cascade data decode decoding deferral distillation envs hf_generate metrics pretrain
    priced prompt_lookup rationales speculative stream student_only take_back teacher_only train verified
"""
FACADES = {
    "wheels": "wheels/__init__.py",
    "wheels.agents": "agents/__init__.py",
    "wheels.annotation": "wheels/annotation/__init__.py",
    "wheels.data": "wheels/data/__init__.py",
    "wheels.decoding": "decoding/__init__.py",
    "wheels.distillation": "wheels/distillation/__init__.py",
    "wheels.envs": "envs/__init__.py",
    "wheels.rationales": "wheels/rationales/__init__.py",
}
"""Packages with lazy names, and their files."""


def shown_to_editors(file: str) -> set[str]:
    """Return the names that a package imports under `if TYPE_CHECKING`."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in imports for alias in node.names}


def test_the_public_names():
    assert wheels.__all__ == sorted(PUBLIC.split())


@pytest.mark.parametrize("package", FACADES)
def test_every_public_name_resolves_and_says_what_it_is(package):
    module = import_module(package)
    assert dir(module) == module.__all__ == sorted(set(module.__all__))
    for name in module.__all__:
        value = getattr(module, name)
        assert not inspect.ismodule(value) or package == "wheels", name
        assert not callable(value) or inspect.getdoc(value), f"{package}.{name} has no docstring"


@pytest.mark.parametrize("package", FACADES)
def test_editors_see_the_lazy_names(package):
    own = set(vars(import_module(package)))
    names = set(import_module(package).__all__)
    assert shown_to_editors(FACADES[package]) <= names
    assert names - shown_to_editors(FACADES[package]) <= {"__version__", "ENV_ID", "register"} & own


@pytest.mark.parametrize("package", [name for name in FACADES if name != "wheels.envs"])
def test_nothing_heavy_is_imported_before_the_first_name(package):
    heavy = {"torch", "transformers", "numpy", "gymnasium", "accelerate"}
    code = f"import sys, {package}; print(sorted({heavy} & set(sys.modules)), end='')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]"


def test_configurations_and_rules_are_light():
    """A module of rules, and a form that fills a configuration, start at once."""
    code = "import sys, wheels; wheels.Rule, wheels.TrainConfig, wheels.PretrainConfig, wheels.WheelsError, "
    code += "wheels.data.Row; print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)), end='')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]"


def signatures() -> dict[str, inspect.Signature]:
    """Return what each public function takes, and each public method of a public class."""
    found = {}
    for name in wheels.__all__:
        value = getattr(wheels, name)
        if inspect.isfunction(value):
            found[name] = inspect.signature(value)
        elif inspect.isclass(value):
            methods = inspect.getmembers(value, lambda member: inspect.isfunction(member) or inspect.ismethod(member))
            own = {key: each for key, each in methods if not key.startswith("_") and key in vars(value)}
            found |= {f"{name}.{key}": inspect.signature(each) for key, each in own.items()}
    return found


def test_every_parameter_has_a_name_and_a_type():
    for name, signature in signatures().items():
        for parameter in signature.parameters.values():
            if parameter.name == "self" or (name, parameter.name) == ("hf_generate", "model_kwargs"):
                continue  # what transformers' `generate` hands to its hook is for it to say
            assert parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL), (name, parameter)
            assert parameter.annotation not in (parameter.empty, "Any"), (name, parameter)


def test_a_name_that_there_is_not_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'wheels' has no attribute 'decoed'"):
        _ = wheels.decoed
    with pytest.raises(ImportError, match="cannot import name 'decoed' from 'wheels'"):
        exec("from wheels import decoed")
