"""Values of the input that are carried, not asked: how kept columns and ids travel to responses/ without being changed.

`text` is the form that any value has as text, `widest` the type that holds all values of a column, `kept` the kept columns of
a shard; `nulls` says what counts as no value. It must not import anything of jobs.route but `score.formats`.
"""
