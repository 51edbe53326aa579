"""The identity of the simulated GPU: UUID, model, bus address, driver versions."""

from __future__ import annotations

UUID = "GPU-5c1a7e00-0000-4000-8000-0000c0ffee00"
MODEL = "Simulated GPU (no NVIDIA hardware)"
BUS = "0000:00:1f.0"
DRIVERS = {
    535: "535.288.01",
    550: "550.163.01",
    555: "555.42.06",
    570: "570.195.03",
    580: "580.159.04",
}
