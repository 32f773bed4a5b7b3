"""What to run under a budget: from the records of one table to a choice. No torch.

budget      what a person states: the limits, and what is to be lowest
choices     what each cell costs and loses, with intervals, and the limits on it
recommend   which cells meet the limits, which is the best of them, what the others fail by
"""
