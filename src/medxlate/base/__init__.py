"""What every room stands on: errors, events, files, processes, devices."""
