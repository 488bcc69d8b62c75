"""Standardised uptake values by body weight.

After the vendor-neutral pseudo-code of the Quantitative Imaging Biomarkers Alliance (QIBA, FDG-PET
profile, "SUV vendor-neutral pseudo-code", 2018-06-26), with the attributes of PS3.3 C.8.9:

    SUVbw = activity concentration [Bq/ml] * weight [g] / dose [Bq] at the reference time

One gram of tissue counts as one millilitre.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from medxlate.images.dicom.parse import Elements

SUV_KEYWORDS = (
    "Units",
    "SUVType",
    "CorrectedImage",
    "DecayCorrection",
    "PatientWeight",
    "SeriesDate",
    "SeriesTime",
    "AcquisitionDate",
    "AcquisitionTime",
    "FrameReferenceTime",
    "ActualFrameDuration",
    "TimezoneOffsetFromUTC",
    "RadiopharmaceuticalInformationSequence",
)
GE, PHILIPS = (0x0009, "GEMS_PETD_01"), (0x7053, "Philips PET Private Group")
GE_SCAN_TIME, PHILIPS_SUV, PHILIPS_ACTIVITY = 0x0D, 0x00, 0x09
PRIVATE = {GE[0]: (GE_SCAN_TIME,), PHILIPS[0]: (PHILIPS_SUV, PHILIPS_ACTIVITY)}
DAY = timedelta(days=1)
# Beyond these, dose and weight are in other units (MBq, kBq, mCi; g). PET tracers are given at
# about 10 to 1000 MBq, 0.1 to 30 MBq/kg, to people, and at about 5 MBq, 200 MBq/kg, to mice. The
# heaviest person known weighed 635 kg.
LEAST_DOSE, MOST_DOSE = 1e6, 1e11  # Bq
LEAST_SHARE, MOST_SHARE = 1e4, 1e10  # Bq/kg
MOST_WEIGHT = 650.0  # kg
LONGEST = 10.0  # half-lives between injection and scan; a longer time is an error in a date


class _NoSuvError(Exception):
    """SUV cannot be computed because of the attribute that the message names."""


def suv_factor(values: Elements) -> tuple[float | None, str]:
    """Return the factor from rescaled values to SUVbw, or None and the attribute that prevents it.

    Args:
        values: The attributes of a PET image; of the radiopharmaceutical, the first item counts.
    """
    try:
        return _factor(values), ""
    except _NoSuvError as reason:
        return None, str(reason)


def _factor(values: Elements) -> float:
    units = values.text("Units")
    if units == "GML":
        kind = values.text("SUVType")
        if kind not in ("", "BW"):
            raise _NoSuvError(f"SUVType is {_shown(kind)}")
        return 1.0
    if units == "BQML":
        return _by_weight(values)
    if units == "CNTS":
        if (factor := _private(values, PHILIPS_SUV)) is not None:
            return factor
        if (activity := _private(values, PHILIPS_ACTIVITY)) is not None:
            return activity * _by_weight(values)
        raise _NoSuvError("Units is CNTS and the Philips SUV factor (7053,1000) is missing")
    raise _NoSuvError(f"Units is {_shown(units)}" if units else "Units is missing")


def _by_weight(values: Elements) -> float:
    corrected = values.values("CorrectedImage")
    for needed in ("DECY", "ATTN"):
        if needed not in corrected:
            raise _NoSuvError(f"CorrectedImage lacks {needed}")
    weight = _positive(values, "PatientWeight")
    drugs = values.items("RadiopharmaceuticalInformationSequence")
    if not drugs:
        raise _NoSuvError("RadiopharmaceuticalInformationSequence is missing")
    dose = _positive(drugs[0], "RadionuclideTotalDose")
    _check_plausible(dose, weight)
    correction = values.text("DecayCorrection")
    if correction == "START":
        half_life = _positive(drugs[0], "RadionuclideHalfLife")
        waited = _decay_time(values, drugs[0], half_life)
        dose *= 2.0 ** (-waited / half_life)
    elif correction != "ADMIN":
        shown = f"is {_shown(correction)}" if correction else "is missing"
        raise _NoSuvError(f"DecayCorrection {shown}")
    return weight * 1000 / dose


def _check_plausible(dose: float, weight: float) -> None:
    """Raise _NoSuvError where dose and weight cannot be in Bq and kg."""
    if not LEAST_DOSE <= dose <= MOST_DOSE:
        raise _NoSuvError("RadionuclideTotalDose cannot be in Bq")
    if weight > MOST_WEIGHT:
        raise _NoSuvError("PatientWeight cannot be in kg")
    if not LEAST_SHARE <= dose / weight <= MOST_SHARE:
        raise _NoSuvError("RadionuclideTotalDose and PatientWeight cannot be in Bq and kg")


def _decay_time(values: Elements, drug: Elements, half_life: float) -> float:
    """Return the seconds from the injection to the time that the activity is corrected to."""
    scan = _scan_time(values, half_life)
    longest = timedelta(seconds=LONGEST * half_life)
    zone = _zone(values.text("TimezoneOffsetFromUTC"))
    started = _moment(drug.text("RadiopharmaceuticalStartDateTime"), zone)
    if started is not None and timedelta(0) <= scan - started <= longest:
        return (scan - started).total_seconds()
    clock = _clock(drug.text("RadiopharmaceuticalStartTime"))
    if clock is None:
        if started is not None:
            raise _NoSuvError("RadiopharmaceuticalStartDateTime does not fit the scan's date")
        raise _NoSuvError("RadiopharmaceuticalStartTime is missing")
    injection = scan.replace(hour=0, minute=0, second=0, microsecond=0) + clock
    if injection > scan:  # the day is not stated: injected before midnight
        injection -= DAY
    if scan - injection > longest:
        raise _NoSuvError("RadiopharmaceuticalStartTime does not fit the scan's time")
    return (scan - injection).total_seconds()


def _scan_time(values: Elements, half_life: float) -> datetime:
    """Return the time that the activity is corrected to where DecayCorrection is START.

    It is the series' time, unless that is after the acquisition: then the series was made later
    from the same data, and the time is GE's private one or is worked back from the frame's
    reference time.
    """
    series = _date_and_time(values, "Series")
    acquired = _date_and_time(values, "Acquisition")
    if series <= acquired:
        return series
    ge = _moment(values.private(*GE, GE_SCAN_TIME), None)
    if ge is not None:
        return ge
    reference = _positive(values, "FrameReferenceTime") / 1000
    duration = _positive(values, "ActualFrameDuration") / 1000
    rate = math.log(2) / half_life
    decay = rate * duration
    average = math.log(decay / -math.expm1(-decay)) / rate
    return acquired + timedelta(seconds=average - reference)


def _date_and_time(values: Elements, which: str) -> datetime:
    day, clock = values.text(f"{which}Date"), _clock(values.text(f"{which}Time"))
    found = _moment(day, None) if len(day) >= 8 else None
    if found is None:
        raise _NoSuvError(f"{which}Date is missing")
    if clock is None:
        raise _NoSuvError(f"{which}Time is missing")
    return found + clock


@dataclass(frozen=True)
class _Parts:
    """The clock of a TM or DT value (PS3.5 6.2); minutes and seconds may be left out."""

    hours: int
    minutes: int
    seconds: float


def _clock(text: str) -> timedelta | None:
    found = re.fullmatch(r"(\d\d):?(?:(\d\d):?(?:(\d\d(?:\.\d{1,6})?))?)?", text)
    if not found:
        return None
    parts = _Parts(int(found[1]), int(found[2] or 0), float(found[3] or 0))
    if parts.hours > 23 or parts.minutes > 59 or parts.seconds >= 61:
        return None
    return timedelta(hours=parts.hours, minutes=parts.minutes, seconds=parts.seconds)


def _moment(text: str, zone: timedelta | None) -> datetime | None:
    """Return a DT or DA value in the time zone of the data set, or None."""
    found = re.fullmatch(r"(\d{4})\.?(\d\d)\.?(\d\d)([\d.]*)([+-]\d{4})?", text)
    if not found:
        return None
    clock = _clock(found[4]) if found[4] else timedelta(0)
    own = _zone(found[5] or "")
    try:
        day = datetime(int(found[1]), int(found[2]), int(found[3]))
    except ValueError:
        return None
    if clock is None:
        return None
    return day + clock + (zone - own if zone is not None and own is not None else timedelta(0))


def _zone(text: str) -> timedelta | None:
    found = re.fullmatch(r"([+-])(\d\d)(\d\d)", text)
    if not found:
        return None
    away = timedelta(hours=int(found[2]), minutes=int(found[3]))
    return -away if found[1] == "-" else away


def _positive(values: Elements, keyword: str) -> float:
    found = values.number(keyword)
    if found is None or found <= 0:
        state = "is missing" if not values.text(keyword) else "is not a positive number"
        raise _NoSuvError(f"{keyword} {state}")
    return found


def _private(values: Elements, element: int) -> float | None:
    try:
        found = float(values.private(*PHILIPS, element))
    except ValueError:
        return None
    return found if math.isfinite(found) and found > 0 else None


def _shown(text: str) -> str:
    """Return a coded value for a message: capitals and digits alone, so that nobody is named."""
    return text if re.fullmatch(r"[A-Z0-9_]{1,16}", text) else "not a known value"
