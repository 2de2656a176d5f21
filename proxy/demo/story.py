"""What Mira told her assistant over six weeks, and what she asks today. Invented for this tour."""

from __future__ import annotations

from typing import NamedTuple


class Exchange(NamedTuple):
    """A message and its answer, with their age in days and their time of day (UTC)."""

    days_ago: int
    at: str
    user: str
    assistant: str


HISTORY = (
    Exchange(
        41,
        "18:20",
        "My sister Jonna comes to visit next month. She is vegetarian and can't stand coriander.",
        "Vegetarian, and no coriander. Tell me when the day is near, and we will plan a menu.",
    ),
    Exchange(
        38,
        "21:05",
        "We have finally named the cat: Zephyrine.",
        "A breeze of a name. Does she answer to it?",
    ),
    Exchange(
        36,
        "08:10",
        "The spare key is with Mr Okafor on the second floor now.",
        "Good to know, should you ever lock yourself out.",
    ),
    Exchange(
        33,
        "12:45",
        "I booked the night train to Vienna: it leaves at 22:09 from platform 7, and we are in coach 261.",
        "Platform 7 at 22:09, coach 261. Shall I make a packing list?",
    ),
    Exchange(
        30,
        "06:55",
        "The heating went out again. The landlord showed me: hold the red button for ten seconds, wait until the "
        "lamp blinks, then turn the dial to three.",
        "Red button for ten seconds, wait for the blinking lamp, dial to three.",
    ),
    Exchange(
        27,
        "17:30",
        "At work we chose PostgreSQL, and agreed not to mention sharding before 2028.",
        "A decision that many will envy. Do you want it written up?",
    ),
    Exchange(
        25,
        "19:40",
        "My knee hurts. The physiotherapist says I should swim twice a week and leave the running for now.",
        "Swimming twice a week it is, then. Which days suit you?",
    ),
    Exchange(
        21,
        "22:15",
        "Tomas and I are reading Middlemarch together. We have got to chapter 30.",
        "Then the best of Dorothea is still ahead of you.",
    ),
    Exchange(
        18,
        "15:05",
        "The wifi in the summer house is called Moorhen. The password is on the back of the barometer.",
        "Moorhen, and the barometer keeps the secret.",
    ),
    Exchange(
        14,
        "13:20",
        "I want that second-hand bicycle, 650 euros. But I promised myself to wait until my birthday.",
        "A promise to oneself is the hardest to negotiate. When is the day?",
    ),
    Exchange(
        9,
        "09:35",
        "The dentist moved my appointment to Tuesday, a quarter past eight.",
        "Tuesday at 8:15. I would set an alarm.",
    ),
    Exchange(4, "20:01", "How do I say 'good evening' in Dutch?", "Goedenavond."),
    Exchange(4, "20:02", "And 'see you tomorrow'?", "Tot morgen."),
    Exchange(4, "20:09", "What is the plural of 'ei'?", "Eieren."),
    Exchange(3, "11:30", "Write a regular expression for a year from 1900 to 2099.", "`(?:19|20)[0-9]{2}`"),
    Exchange(3, "11:32", "Does it match 1899?", "No: it begins with neither 19 nor 20."),
    Exchange(2, "16:40", "How many teaspoons are in a tablespoon?", "Three."),
    Exchange(2, "16:41", "And how many grams of flour is that?", "About eight, if it is levelled."),
    Exchange(1, "23:10", "What rhymes with 'reservoir'?", "'Memoir', nearly. And 'boudoir', if you pronounce it so."),
)

QUESTIONS = (
    "Jonna is here on Saturday. What should I cook for her?",
    "From which platform does my train to Vienna leave, and when?",
    "The heating is out once more. What was the trick with the button?",
)
