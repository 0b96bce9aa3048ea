"""Measure energy in joules by RAPL counters, NVIDIA's driver, or the current sensors of a Jetson.

RAPL: one `energy_uj` per package that wraps at `max_energy_range_uj` (kernel documentation, power/powercap).
NVML: millijoules since the driver was loaded, Volta and later.
INA3221 and other hwmon sensors: power in microwatts, or millivolts and milliamperes, summed over 50 ms intervals.
All of them measure the whole package, GPU or board, including other processes.
"""

import threading
import time
from pathlib import Path
from typing import Any, Protocol

POWERCAP, HWMON = Path("/sys/class/powercap"), Path("/sys/class/hwmon")
_INTERVAL_S = 0.05


class Meter(Protocol):
    """An energy meter.

    Attributes:
        source: name of the counter or sensor, and the hardware that it covers.
    """

    source: str

    def start(self) -> None: ...

    def stop(self) -> float:
        """Joules since `start`."""
        ...


def find_meter(device: str = "cpu", powercap: Path = POWERCAP, hwmon: Path = HWMON) -> Meter | None:
    """Find the meter of the computing device, or None.

    Args:
        device: "cpu" for the processor or the board; any other device for the GPU, if it has a meter.
        powercap, hwmon: folders of the kernel's sensors.
    """
    if device != "cpu" and (gpu := NvmlMeter.open()):
        return gpu
    packages = [path for path in sorted(powercap.glob("intel-rapl:*")) if path.name.count(":") == 1]
    packages = [path for path in packages if _number(path / "energy_uj") is not None]
    if packages:
        return RaplMeter(packages)
    rails = [path for path in sorted(hwmon.glob("hwmon*")) if (_text(path / "name") or "").startswith("ina")]
    return SensorMeter(rails) if any(_watts(path) for path in rails) else None


class RaplMeter:
    """Energy counters of processor packages."""

    def __init__(self, packages: list[Path]) -> None:
        self._packages = packages
        self.source = f"RAPL: {', '.join(_text(path / 'name') or path.name for path in packages)}"

    def start(self) -> None:
        self._begin = self._read()

    def stop(self) -> float:
        total = 0.0
        for path, begin, end in zip(self._packages, self._begin, self._read(), strict=True):
            total += end - begin if end >= begin else end - begin + (_number(path / "max_energy_range_uj") or 0)
        return total / 1e6

    def _read(self) -> list[float]:
        return [_number(path / "energy_uj") or 0.0 for path in self._packages]


class NvmlMeter:
    """Energy counter of the first NVIDIA GPU."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self.source = f"NVML: {nvml.nvmlDeviceGetName(handle)}"

    @classmethod
    def open(cls) -> "NvmlMeter | None":
        """Open the counter; None without nvidia-ml-py, a driver, or a GPU with a counter."""
        try:
            import pynvml
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        except pynvml.NVMLError:
            return None
        return cls(pynvml, handle)

    def start(self) -> None:
        self._begin = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)

    def stop(self) -> float:
        joules: float = (self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) - self._begin) / 1000
        return joules


class SensorMeter:
    """Power sensors of a board, read twenty times per second."""

    def __init__(self, rails: list[Path]) -> None:
        self._rails, self._stopping = rails, threading.Event()
        self.source = f"hwmon: {', '.join(_text(path / 'name') or path.name for path in rails)}"

    def start(self) -> None:
        self._joules, self._last = 0.0, time.perf_counter()
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        self._stopping.set()
        self._thread.join()
        self._add()
        return self._joules

    def _run(self) -> None:
        while not self._stopping.wait(_INTERVAL_S):
            self._add()

    def _add(self) -> None:
        watts, now = sum(map(_watts, self._rails)), time.perf_counter()
        self._joules, self._last = self._joules + watts * (now - self._last), now


def _watts(sensor: Path) -> float:
    """Power of all channels. On a Jetson one labelled channel is the sum of the others; then it alone counts."""
    channels = {}
    for number in range(1, 9):
        power = _number(sensor / f"power{number}_input")
        volts, amperes = _number(sensor / f"in{number}_input"), _number(sensor / f"curr{number}_input")
        if power is None and volts is not None and amperes is not None:
            power = volts * amperes
        if power is not None:
            channels[_text(sensor / f"in{number}_label") or str(number)] = power / 1e6
    whole = [watts for label, watts in channels.items() if label in ("VDD_IN", "VIN_SYS_5V0", "POM_5V_IN")]
    return whole[0] if whole else sum(channels.values())


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None
