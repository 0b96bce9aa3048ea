"""The GPTQ decoder on an NVIDIA GPU; only `backend` may be imported where torch may be missing."""
