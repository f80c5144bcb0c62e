"""What the paper reports, and its figures and tables (Finn, Abbeel & Levine 2017)."""
