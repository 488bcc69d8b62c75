"""The embedded demo's patients: anatomy that changes with age, and real files of its scans."""
