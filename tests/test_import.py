"""`import sdk` is light: no model library, nothing beyond the base dependencies."""

import subprocess
import sys

HEAVY = (
    "torch",
    "transformers",
    "onnxruntime",
    "dlib",
    "onnx",
    "peft",
    "pandas",
    "matplotlib",
    "av",
    "huggingface_hub",
    "httpx",
    "tqdm",
    "asyncio",
)


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_import_loads_nothing_heavy():
    code = f"import sys, sdk, sdk.cli; sdk.Analyzer; print([name for name in {HEAVY} if name in sys.modules])"
    assert python(code) == "[]"


def test_a_command_that_opens_no_bundle_loads_no_numbers():
    code = "import sys, sdk.cli; sdk.cli.main(['--version']); print({'numpy', 'pydantic'} & set(sys.modules))"
    assert python(code).endswith("set()")


def test_import_works_with_the_base_dependencies_only():
    """Every other installed package is hidden from the interpreter."""
    code = f"""
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {(*HEAVY, "sentencepiece", "cv2", "skimage", "insightface", "rich")}:
            raise ImportError(f"{{name}} is hidden")
sys.meta_path.insert(0, Hide())
import sdk
from sdk.faba.rege import score
from sdk.faces.images import load_image
from sdk.errors import DependencyError
from sdk.faces.detect import open_detector
print(sorted(sdk.__all__))
try:
    open_detector("dlib")
except DependencyError as error:
    print(error)
"""
    names, message = python(code).splitlines()
    assert names == "['Analysis', 'Analyzer', 'SdkError', 'to_dataframe']"
    assert message.startswith("dlib-bin is needed to find faces")
    assert "pip install 'emola-edge[faces]'" in message


def test_transformers_hides_the_missing_package_behind_its_own_module(monkeypatch, capsys):
    """Its error has no name; the package that is missing is the cause."""
    import sdk.commands.info
    from sdk.cli import main

    def broken(args):
        try:
            raise ModuleNotFoundError("No module named 'safetensors'", name="safetensors")
        except ModuleNotFoundError as cause:
            raise ModuleNotFoundError("Could not import module 'LlamaConfig'") from cause

    monkeypatch.setattr(sdk.commands.info, "run", broken)
    assert main(["info"]) == 1
    assert (
        capsys.readouterr().err
        == "emola: error: safetensors is not installed; install it with: pip install emola-edge\n"
    )


def test_public_names_are_listed_before_they_are_used():
    """`dir(sdk)` is what an interactive Python completes."""
    assert python("import sdk; print(set(sdk.__all__) - set(dir(sdk)))") == "set()"
