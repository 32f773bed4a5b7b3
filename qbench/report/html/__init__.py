"""Any page as one HTML file that needs no network: tables that sort, and pictures."""
