"""What to run under a budget: from the records of one table to a choice. No torch.

budget      what a person states: the limits, and what is to be lowest
axes        the quantities that cells are chosen by
ranges      what is known of each of them
limits      from a budget to a bound on each
choices     what each cell costs and loses, with intervals, and the limits on it
arms        the same of tuned models
joint       the same of several tables at once
recommend   which cells meet the limits, which is the best of them, what the others fail by
tables      all that is recommended of a table
section     a budget as a person writes it
"""
