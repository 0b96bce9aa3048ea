"""The GPTQ decoder on an NVIDIA GPU. Only `open` can be imported without torch."""
