"""DICOM: the only package that knows pydicom."""
