"""The report page: JSON data in, one self-contained HTML file out."""
