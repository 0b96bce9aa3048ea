"""The GPTQ decoder on an NVIDIA GPU; only `open` may be imported where torch may be missing."""
