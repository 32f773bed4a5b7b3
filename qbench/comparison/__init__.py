"""Paired statistics: from two sets of records to differences, verdicts and the gate. No torch.

statistics, paired_series, comparability     what is compared, and with what certainty
differences, verdict, marks, compare         from records to differences and what they mean
gate_rules, gate_field, gate, gate_power     from rules to an exit code
baseline, sides                              where the records of each side come from
"""
