"""Paired statistics: from two sets of records to differences, verdicts and the gate. No torch.

paired_series, variation, comparability      what is compared, and what it varies by
statistics, bootstrap, blocks, binary        estimates and their intervals: numbers in, numbers out
series_estimates, power                      of windows and items; what can be found with so many
differences, seeds, verdict, marks, compare  from records to differences and what they mean
gate_rules, gate_field, gate, gate_power     from rules to an exit code
baseline, sides                              where the records of each side come from
"""
