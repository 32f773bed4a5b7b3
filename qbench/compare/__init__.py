"""Paired statistics: from two sets of records to differences, verdicts and the gate. No torch.

estimates/                                    intervals and power: numbers in, numbers out
selection, baseline, items                    which records are looked at, which points and texts
series, variation, comparable                 what is compared, and what it varies by
series_estimates                              estimates of windows and items
differences, seeds, marks, verdicts, compare  from records to differences and what they mean
gate/                                         from rules to an exit code
tuned/                                        the arms of a fine-tuning, and their changes
recommend/                                    from a budget to what to run
"""
