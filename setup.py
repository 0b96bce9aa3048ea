"""All metadata of the distribution `emola-edge`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

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
video, tables, hub = ["av>=14.1", "matplotlib>=3.9"], ["pandas>=2.2"], ["huggingface_hub>=0.30"]
test = [
    "pytest>=8",
    "pytest-benchmark>=5",
    "pytest-xdist>=3.6",
    "scikit-image>=0.24",
    "insightface>=1.0",
    "rouge==1.0.1",
    "imageio-ffmpeg>=0.6",
]
test += [*video, *tables, *hub]
triton = ["triton>=3.4; platform_system == 'Linux'"]
peers = ["onnxruntime-genai>=0.18; python_version >= '3.11'", "llama-cpp-python>=0.3.36", "gguf>=0.17"]
extras = {
    "cpu": ["onnxruntime>=1.22"],
    "gpu": ["onnxruntime-gpu>=1.22"],
    "gptq": ["torch>=2.8", *triton, "safetensors>=0.5", "onnxruntime-gpu>=1.22"],
    "faces": ["dlib-bin>=19.24"],
    "train": train,
    "synthetic": synthetic,
    "train4bit": [*train, "bitsandbytes>=0.45"],
    "export": [*train, "onnx>=1.17", "onnxscript>=0.5", "protobuf>=4", "onnxruntime>=1.22"],
    "tensorrt": ["tensorrt>=10.3", "cuda-python>=12.6"],
    "video": video,
    "tables": tables,
    "hub": hub,
    "test": test,
    "oracles": ["onnxruntime-genai>=0.18; python_version >= '3.11'"],
    "triton": triton,  # its interpreter checks the kernels of gptq without a GPU
    "peers": peers,
    "peers-gptq": ["optimum>=2.0", "gptqmodel>=7.0"],
    "dev": ["ruff>=0.9", "mypy>=1.14", "import-linter>=2.16"],
}

setup(
    name="emola-edge",
    version=version,
    description="EmoLA on the edge: explained facial emotion and action units from a photo, offline",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["sdk*", "export*", "trainer*"]),
    package_data={"sdk": ["py.typed", "assets/**/*"], "trainer": ["accelerate/*.yaml"]},
    install_requires=["numpy>=1.26", "pillow>=10.1", "pydantic>=2.7", "tokenizers>=0.20", "tqdm>=4.66"],
    extras_require=extras,
    entry_points={"console_scripts": ["emola = sdk.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Operating System :: OS Independent",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
