"""SUVbw factors against values worked by hand, and what is missing by its name."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydicom.dataset import Dataset

from medxlate.images.dicom.parse import Elements
from medxlate.images.dicom.suv import suv_factor


def header(**changes: Any) -> Dataset:
    """A PET header: 70 kg, 350 MBq of F-18 injected at 11:00:00, scanned at 12:00:00.

    A change to None takes an attribute away; those of the radiopharmaceutical are found by name.
    """
    drug = Dataset()
    drug.RadionuclideTotalDose = "350000000"
    drug.RadionuclideHalfLife = "6000"
    drug.RadiopharmaceuticalStartTime = "110000.00"
    values = Dataset()
    values.Modality = "PT"
    values.Units = "BQML"
    values.CorrectedImage = ["DECY", "ATTN", "SCAT"]
    values.DecayCorrection = "START"
    values.PatientWeight = "70"
    values.SeriesDate = values.AcquisitionDate = "20240510"
    values.SeriesTime, values.AcquisitionTime = "120000", "120000.000"
    values.RadiopharmaceuticalInformationSequence = [drug]
    for keyword, value in changes.items():
        place = drug if "Radio" in keyword and "Sequence" not in keyword else values
        if value is None:
            delattr(place, keyword)
        else:
            setattr(place, keyword, value)
    return values


def factor(values: Dataset) -> float:
    found, reason = suv_factor(Elements.of(values))
    assert found is not None, reason
    assert reason == ""
    return found


def reason(values: Dataset) -> str:
    found, why = suv_factor(Elements.of(values))
    assert found is None
    return why


def philips(values: Dataset, element: int, value: str) -> Dataset:
    values.private_block(0x7053, "Philips PET Private Group", create=True).add_new(
        element, "DS", value
    )
    return values


# One hour is 3600 s, 3600/6000 = 0.6 half-lives; 2^-0.6 = 0.6597539553864471.
# 350e6 Bq * 0.6597539553864471 = 230913884.3852565 Bq are left.
# 70 kg are 70000 g; 70000 / 230913884.3852565 = 3.0314331330e-4 (Bq/ml)^-1.
START = 3.0314331330e-4


def test_start_decays_the_dose_to_the_series_time() -> None:
    assert factor(header()) == pytest.approx(START, rel=1e-9)


def test_admin_takes_the_dose_as_injected() -> None:
    # 70000 g / 350e6 Bq = 2e-4
    values = header(DecayCorrection="ADMIN", SeriesTime=None, RadiopharmaceuticalStartTime=None)
    assert factor(values) == pytest.approx(2e-4, rel=1e-12)


def test_a_later_acquisition_does_not_count() -> None:
    # The bed position at 12:20 is corrected to the start of the series at 12:00, as all others.
    assert factor(header(AcquisitionTime="122000")) == pytest.approx(START, rel=1e-9)


def test_half_life_of_exactly_one_hour() -> None:
    # After one half-life 175 MBq of 350 MBq are left: 70000 / 175e6 = 4e-4.
    assert factor(header(RadionuclideHalfLife="3600")) == pytest.approx(4e-4, rel=1e-12)


def test_injected_before_midnight_scanned_after() -> None:
    # 23:30:00 to 00:30:00 is one hour: the same factor.
    values = header(
        RadiopharmaceuticalStartTime="233000",
        SeriesTime="003000",
        AcquisitionTime="003000",
    )
    assert factor(values) == pytest.approx(START, rel=1e-9)


def test_start_date_and_time_across_midnight() -> None:
    values = header(
        RadiopharmaceuticalStartTime=None,
        RadiopharmaceuticalStartDateTime="20240509233000.000000",
        SeriesTime="003000",
        AcquisitionTime="003000",
    )
    assert factor(values) == pytest.approx(START, rel=1e-9)


def test_start_date_and_time_days_before() -> None:
    # Y-90-like: 24 h = 86400 s at a half-life of 43200 s are two half-lives, a quarter is left:
    # 70000 / (350e6 / 4) = 8e-4. The time of day alone would say no decay at all.
    values = header(
        RadionuclideHalfLife="43200",
        RadiopharmaceuticalStartTime="120000",
        RadiopharmaceuticalStartDateTime="20240509120000",
    )
    assert factor(values) == pytest.approx(8e-4, rel=1e-12)


def test_time_zone_of_the_injection() -> None:
    # 10:00 in UTC is 11:00 in the zone of the data set, +0100.
    values = header(
        TimezoneOffsetFromUTC="+0100",
        RadiopharmaceuticalStartTime=None,
        RadiopharmaceuticalStartDateTime="20240510100000+0000",
    )
    assert factor(values) == pytest.approx(START, rel=1e-9)


def test_a_start_date_that_was_shifted_yields_to_the_start_time() -> None:
    values = header(RadiopharmaceuticalStartDateTime="20190101110000")
    assert factor(values) == pytest.approx(START, rel=1e-9)
    values = header(
        RadiopharmaceuticalStartDateTime="20190101110000", RadiopharmaceuticalStartTime=None
    )
    assert reason(values) == "RadiopharmaceuticalStartDateTime does not fit the scan's date"


def test_series_made_later_uses_the_private_scan_time_of_ge() -> None:
    values = header(SeriesTime="150000", AcquisitionTime="121000")
    block = values.private_block(0x0009, "GEMS_PETD_01", create=True)
    block.add_new(0x0D, "DT", "20240510120000.00")
    assert factor(values) == pytest.approx(START, rel=1e-9)


def test_series_made_later_works_back_from_the_frame_reference_time() -> None:
    # Acquired from 12:10:00 for 120 s. rate = ln 2 / 6000 s = 1.155245301e-4 /s; decay within the
    # frame = 0.01386294361; -expm1(-0.01386294361) = 0.01376729552;
    # ln(0.01386294361 / 0.01376729552) = 0.0069234643; / rate = 59.930685 s: the time within the
    # frame at which its average count rate holds. With a reference time of 659.930685 s after the
    # scan's start, the start is 12:10:00 + 59.930685 s - 659.930685 s = 12:00:00.
    values = header(
        SeriesTime="150000",
        AcquisitionTime="121000",
        ActualFrameDuration="120000",
        FrameReferenceTime="659930.685",
    )
    assert factor(values) == pytest.approx(START, rel=1e-7)
    del values.FrameReferenceTime
    assert reason(values) == "FrameReferenceTime is missing"


def test_gml_is_suv_already() -> None:
    bare = Dataset()
    bare.Units = "GML"
    assert factor(bare) == 1.0
    bare.SUVType = "BW"
    assert factor(bare) == 1.0
    bare.SUVType = "LBM"
    assert reason(bare) == "SUVType is LBM"


def test_counts_with_the_suv_factor_of_philips() -> None:
    values = philips(header(Units="CNTS"), 0x00, "0.000551")
    assert factor(values) == pytest.approx(0.000551, rel=1e-12)


def test_counts_with_the_activity_factor_of_philips() -> None:
    # 2 Bq/ml a count: twice the factor for Bq/ml.
    values = philips(header(Units="CNTS"), 0x09, "2.0")
    assert factor(values) == pytest.approx(2 * START, rel=1e-9)


def test_private_values_of_another_creator_do_not_count() -> None:
    values = header(Units="CNTS")
    values.private_block(0x7053, "SOMEBODY ELSE", create=True).add_new(0, "DS", "0.5")
    assert reason(values) == ("Units is CNTS and the Philips SUV factor (7053,1000) is missing")
    assert factor(philips(values, 0x00, "0.25")) == 0.25  # in the next block, (7053,1100)


@pytest.mark.filterwarnings("ignore:Invalid value for VR TM")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"Units": None}, "Units is missing"),
        ({"Units": "PROPCPS"}, "Units is PROPCPS"),
        ({"CorrectedImage": None}, "CorrectedImage lacks DECY"),
        ({"CorrectedImage": ["ATTN"]}, "CorrectedImage lacks DECY"),
        ({"CorrectedImage": "DECY"}, "CorrectedImage lacks ATTN"),
        ({"PatientWeight": None}, "PatientWeight is missing"),
        ({"PatientWeight": ""}, "PatientWeight is missing"),
        ({"PatientWeight": "0"}, "PatientWeight is not a positive number"),
        ({"DecayCorrection": None}, "DecayCorrection is missing"),
        ({"DecayCorrection": "NONE"}, "DecayCorrection is NONE"),
        ({"SeriesDate": None}, "SeriesDate is missing"),
        ({"SeriesTime": None}, "SeriesTime is missing"),
        ({"SeriesTime": "99"}, "SeriesTime is missing"),
        ({"AcquisitionDate": None}, "AcquisitionDate is missing"),
        ({"AcquisitionTime": None}, "AcquisitionTime is missing"),
        ({"RadionuclideTotalDose": None}, "RadionuclideTotalDose is missing"),
        ({"RadionuclideTotalDose": "0"}, "RadionuclideTotalDose is not a positive number"),
        ({"RadionuclideHalfLife": None}, "RadionuclideHalfLife is missing"),
        ({"RadiopharmaceuticalStartTime": None}, "RadiopharmaceuticalStartTime is missing"),
        (
            {"RadiopharmaceuticalStartTime": "130000", "RadionuclideHalfLife": "1200"},
            "RadiopharmaceuticalStartTime does not fit the scan's time",
        ),
        (
            {"RadiopharmaceuticalInformationSequence": None},
            "RadiopharmaceuticalInformationSequence is missing",
        ),
    ],
)
def test_what_is_missing_is_named(changes: dict[str, Any], expected: str) -> None:
    assert reason(header(**changes)) == expected


@pytest.mark.parametrize("unit", [1e6, 1e3, 3.7e7])  # MBq, kBq, mCi
@pytest.mark.parametrize("dose", [80e6, 370e6, 740e6])  # Bq
def test_a_dose_in_another_unit_is_refused(dose: float, unit: float) -> None:
    changes = {"RadionuclideTotalDose": f"{dose / unit:.4f}"}
    assert reason(header(**changes)) == "RadionuclideTotalDose cannot be in Bq"


@pytest.mark.parametrize("weight", ["3400", "12000", "70000", "140000"])
def test_a_weight_in_grams_is_refused(weight: str) -> None:
    assert reason(header(PatientWeight=weight)) == "PatientWeight cannot be in kg"


def test_a_dose_too_small_for_the_weight_is_refused() -> None:
    changes = {"RadionuclideTotalDose": "2000000", "PatientWeight": "500"}
    expected = "RadionuclideTotalDose and PatientWeight cannot be in Bq and kg"
    assert reason(header(**changes)) == expected


@pytest.mark.parametrize(
    ("dose", "weight"),  # Bq, kg
    [
        ("37000000", "120"),  # Zr-89, an adult
        ("2000000000", "80"),  # O-15 water
        ("14000000", "2.5"),  # F-18, a newborn
        ("5000000", "0.025"),  # F-18, a mouse
    ],
)
def test_doses_that_are_given_are_believed(dose: str, weight: str) -> None:
    values = header(RadionuclideTotalDose=dose, PatientWeight=weight, DecayCorrection="ADMIN")
    assert factor(values) == pytest.approx(float(weight) * 1000 / float(dose))


def test_the_constants_above() -> None:
    left = 350e6 * 2 ** (-3600 / 6000)
    assert 70 * 1000 / left == pytest.approx(START, rel=1e-9)
    rate = math.log(2) / 6000
    frame = rate * 120
    assert math.log(frame / -math.expm1(-frame)) / rate == pytest.approx(59.930685, abs=1e-6)
