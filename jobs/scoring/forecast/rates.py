"""How fast a model's replica works through its tasks: measured here, or of a stated device."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.scoring.forecast.devices import Device
from jobs.scoring.forecast.tasks import Forecast
from steering_core.memory import weights_bytes
from steering_core.skeleton import Skeleton


@dataclass(frozen=True, slots=True)
class Rates:
    """Operations per second of one replica, see ``Forecast`` for what is counted.

    Attributes:
        baseline, steered: needed operations of phase 1 and phase 2.
        checked: operations of the slow path.
    """

    baseline: float
    steered: float
    checked: float

    def seconds(self, phase_1: Forecast, phase_2: Forecast) -> float:
        """Seconds that one replica takes for these forecasts, certificates included."""
        return (
            phase_1.needed_flops / self.baseline
            + phase_2.needed_flops / self.steered
            + (phase_1 + phase_2).checked_flops / self.checked
        )


def rates_on(
    device: Device, share: float, skeleton: Skeleton, dtype: str, total: Forecast
) -> Rates:
    """The rates of a device whose stated rate is reached to a share.

    A pass of the slow path also has to read the weights once, which takes a single sequence longer
    than its products.

    Raises:
        UserError: the vendor states no rate for the dtype.
    """
    reached = device.peak_flops_per_s(dtype) * share
    per_pass = total.checked_flops / max(1, total.checked_passes)
    read_s = weights_bytes(skeleton, dtype) / device.bytes_per_s
    checked = per_pass / max(per_pass / reached, read_s) if per_pass else reached
    return Rates(reached, reached, checked)
