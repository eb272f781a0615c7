"""What the columns of the input are to a row, a module each: the body of a batch line, a template's variables, the gold, the rest.

It must not import jobs.route.score.prompts, which makes a row's prompt of them, nor a stage.
"""
