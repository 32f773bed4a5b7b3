"""Any page as one file for a browser, with pictures, which needs no network."""
