"""What is measured, and how; run from a checkout. Results: RESULTS.md."""
