"""What `bbdfield bench` measures: cost per site, the machine's ceilings, scaling, and the forecast.

Every figure is a ratio of times taken in one run on one machine, in turns, so that the machine's noise hits all alike.
"""
