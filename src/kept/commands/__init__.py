"""What users ask for, a file each; the functions that `kept` exports."""
