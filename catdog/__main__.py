"""`python -m catdog`: the list of commands."""

from catdog.system.terminal import console

COMMANDS = """python -m catdog.train      train a model, or with -m a sweep of them
python -m catdog.compare    put the runs of a sweep side by side
python -m catdog.decide     train seeds until it is clear which variant is better
python -m catdog.audit      look at a data set, or an input pipeline, for leaks and odd images
python -m catdog.evaluate   evaluate the champion on the test split
python -m catdog.predict    say what is in pictures
python -m catdog.deliver    deliver what a tracking server did not take while training lasted

Each explains itself with --help."""

if __name__ == "__main__":
    console.print(COMMANDS, highlight=False, markup=False)
