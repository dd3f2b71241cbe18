"""GLUE-shaped examples from a small seeded grammar, for offline demos, tests and smoke runs.

The columns and the label ids are GLUE's; every sentence is built here from our own word lists.
Records trained on these examples never enter a paper's table: they show that the code runs and learns,
and say nothing about GLUE. What decides the label of each task:

  cola  one broken rule: agreement past an attractor, verb form, this/these, reflexive, word order
  sst2  a verdict on a film, turned by negation or outweighed in a contrast
  mrpc  two reports of one event, reworded; or with the roles, verb, person, city or day changed
  stsb  two scenes; 5 minus a cost for each of who, does what, to what and where that differs
  qqp   two questions with the same intent and topic, reworded; or one of the two changed
  mnli  kinds and instances, qualities, quantifiers and roles, with and without negation;
        validation_mismatched is about another world, and shares no content word with train
  qnli  the sentence gives the detail asked for, or lacks it, or gives it for another deed
  rte   who did what across relative clauses, factive and implicative verbs
  wnli  the referent of a pronoun, shown by its gender or number, or by sense alone; or another reason

Labels are balanced (cola 60:40) and hidden from a bag of words: both classes use the same words,
and only their order or their match across the two sentences differs.
"""

import random
import zlib
from typing import Any

from tasks.glue import GLUE


def synonyms(text: str) -> list[tuple[str, ...]]:
    """One tuple per word of `text`: the names, joined there by slashes, of one thing."""
    return [tuple(names.split("/")) for names in text.split()]


def clusters(text: str) -> list[list[tuple[str, ...]]]:
    """One list of synonyms per line of `text`."""
    return [synonyms(line) for line in text.strip().splitlines()]


def rows(text: str) -> list[list[str]]:
    """One list of words per line of `text`."""
    return [line.split() for line in text.strip().splitlines()]


TRADES = clusters("""
    doctor/physician nurse scientist/researcher
    lawyer/attorney judge detective/investigator robber/burglar
    writer/author reporter/journalist singer/vocalist dancer painter
    cook/chef baker butcher waiter
    mechanic plumber tailor barber
    sailor/seafarer pilot soldier driver/chauffeur
    farmer gardener
    manager/supervisor banker teacher/instructor student/pupil""")
PEOPLE = [person for trade in TRADES for person in trade]
KINDS = {
    "vehicle": synonyms("car/automobile truck/lorry bicycle/bike motorcycle/motorbike tractor van"),
    "animal": synonyms("dog/hound rabbit/hare pig/hog horse goat parrot"),
    "instrument": synonyms("violin/fiddle piano guitar trumpet flute drum"),
    "garment": synonyms("coat/jacket sweater/jumper skirt scarf shirt hat"),
    "tool": synonyms("hammer shovel/spade saw drill axe ladder"),
    "fruit": synonyms("apple pear lemon melon banana plum"),
}
THINGS = [thing for things in KINDS.values() for thing in things]
GROUNDS = clusters("""
    street/road market shop/store station school
    garden/yard park
    forest/woods lake field/meadow""")
PLACES = [place for ground in GROUNDS for place in ground]
CITIES = "Paris London Rome Berlin Madrid Vienna Lisbon Dublin Oslo Athens Cairo Tokyo Boston Chicago".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
WOMEN = "Anna Mary Susan Laura Emma Julia Linda Sarah Karen Helen Alice Diana Nancy Sophie".split()
MEN = "John Peter David Mark Tom Paul Robert James Henry Frank George Kevin Brian Martin".split()

# base, past, participle, -ing: past and participle differ, so that the wrong one is an error.
FORMS = rows("""
    steal stole stolen stealing
    take took taken taking
    break broke broken breaking
    draw drew drawn drawing
    hide hid hidden hiding
    see saw seen seeing
    choose chose chosen choosing
    forget forgot forgotten forgetting
    throw threw thrown throwing
    shake shook shaken shaking""")
DEALS = rows("""
    buy bought
    sell sold
    find found
    lose lost
    steal stole
    hide hid
    paint painted
    borrow borrowed
    clean cleaned
    break broke""")
# Two opposite ways to treat a person; each word is both past tense and participle.
TREATMENTS = clusters("""
    praised/commended criticised/condemned
    hired/recruited fired/dismissed
    helped/assisted hindered/obstructed
    loved/adored hated/despised
    freed/released arrested/detained
    defended/protected attacked/assaulted
    trusted/believed doubted/distrusted""")
QUALITIES = clusters("""
    old/elderly young/youthful
    rich/wealthy poor/penniless
    happy/cheerful sad/unhappy
    strong/powerful weak/feeble
    fat/overweight thin/skinny
    calm/relaxed nervous/anxious
    brave/fearless cowardly/timid
    clever/smart stupid/dumb
    polite/courteous rude/impolite""")

RELATIVES = {
    "herself": ["girl", "mother", "queen", "aunt", "sister", "daughter"],
    "himself": ["boy", "father", "king", "uncle", "brother", "son"],
}
NEAR = ["near", "beside", "behind"]
ADVERBS = ["today", "again", "there", "quietly", "secretly"]

GOOD = """
    wonderful brilliant superb delightful charming moving funny clever gripping beautiful fresh touching excellent
    great lovely inspired graceful witty thrilling impressive
""".split()
BAD = """
    dull awful terrible boring clumsy tedious lifeless stale weak bland messy shallow dreadful poor ugly pointless
    annoying silly tiresome forgettable
""".split()
ASPECTS = """
    acting plot script music ending dialogue pacing editing story cast humor direction camerawork soundtrack
    opening romance
""".split()
# What reverses an adjective, and what keeps it; the same for whole clauses.
TURNS = ["anything but", "far from", "hardly", "not", "never", "not at all", "by no means"]
KEEPS = ["truly", "rather", "more than", "never less than", "nothing if not", "always", "quite"]
DENIALS = ["it is wrong to say that", "nobody would agree that", "I doubt that", "it is not true that"]
CONSENTS = ["it is right to say that", "nobody would deny that", "I never doubt that", "it is true that"]


def a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def sentence(*parts: str, end: str = ".") -> str:
    """The non-empty parts, joined, with a capital and a final mark."""
    text = " ".join(part for part in parts if part)
    return text[0].upper() + text[1:] + end


def name(rng: random.Random, things: list[tuple[str, ...]]) -> str:
    """One of the names of one of `things`."""
    return rng.choice(rng.choice(things))


def names(rng: random.Random, things: list[tuple[str, ...]]) -> list[str]:
    """A name each for two different `things`."""
    return [rng.choice(synonym) for synonym in rng.sample(things, 2)]


def other(rng: random.Random, items: list, *used: object):
    """An item that is not in `used`."""
    return rng.choice([item for item in items if item not in used])


def cola(rng):
    good = rng.random() < 0.6
    phenomena = [agreement, agreement, verb_form, verb_form, demonstrative, reflexive, word_order]
    return sentence(*rng.choice(phenomena)(rng, good)), int(good)


def agreement(rng, good):
    plural = rng.random() < 0.5
    head, attractor = names(rng, PEOPLE)
    base, _, participle, ing = rng.choice(FORMS)
    verb = rng.choice(
        [
            (f"is {ing}", f"are {ing}"),
            (f"has {participle}", f"have {participle}"),
            (f"was {ing}", f"were {ing}"),
            (f"{base}s", base),
        ]
    )[plural == good]
    # The attractor takes either number, so the nearest noun is no help in finding the verb's.
    return (
        f"the {head}{'s' * plural} {rng.choice(NEAR)} the {attractor}{rng.choice(['', 's'])}",
        verb,
        f"the {name(rng, THINGS)}",
    )


def verb_form(rng, good):
    base, past, participle, ing = rng.choice(FORMS)
    auxiliary, right = rng.choice(
        [
            ("will", base),
            ("has", participle),
            ("is", ing),
            ("did not", base),
            ("", past),
            ("had", participle),
            ("was", ing),
        ]
    )
    wrong = [form for form in (base, participle, ing, past) if form != right]
    if auxiliary in ("is", "was"):
        wrong.remove(participle)  # "is stolen the car" is a word-order error, "was seen" is correct
    verb = right if good else rng.choice(wrong)
    return f"the {name(rng, PEOPLE)}", auxiliary, verb, f"the {name(rng, THINGS)}", rng.choice(ADVERBS)


def demonstrative(rng, good):
    plural = rng.random() < 0.5
    determiner = rng.choice([("this", "these"), ("that", "those")])[plural == good]
    object_ = f"{determiner} {name(rng, THINGS)}{'s' * plural}"
    return f"the {name(rng, PEOPLE)}", rng.choice(FORMS)[1], object_, rng.choice(ADVERBS)


def reflexive(rng, good):
    right = rng.choice(["herself", "himself", "themselves"])
    gender = right if right in RELATIVES else rng.choice(list(RELATIVES))
    head = rng.choice(RELATIVES[gender]) + "s" * (right == "themselves")
    subject = f"the {head} {rng.choice(NEAR)} the {name(rng, PEOPLE)}{rng.choice(['', 's'])}"
    pronoun = right if good else other(rng, ["herself", "himself", "themselves"], right)
    return subject, name(rng, rng.choice(TREATMENTS)), pronoun, rng.choice(ADVERBS)


def word_order(rng, good):
    words = [
        "the",
        name(rng, PEOPLE),
        "will",
        rng.choice(FORMS)[0],
        "the",
        name(rng, THINGS),
        rng.choice(["near", "behind"]),
        "the",
        name(rng, PLACES),
    ]
    if not good:
        i = rng.choice([0, 2, 3, 4, 6, 7])
        words[i], words[i + 1] = words[i + 1], words[i]
    return words


def sst2(rng):
    positive = rng.random() < 0.5
    first, second = rng.sample(ASPECTS, 2)
    if rng.random() < 0.35:
        return sentence(verdict(rng, first, positive), "and", verdict(rng, second, positive)), int(positive)
    lesser, main = verdict(rng, first, not positive), verdict(rng, second, positive)
    texts = [
        f"{lesser}, but {main}",
        f"although {lesser}, {main}",
        f"{main}, even though {lesser}",
        f"{lesser}, yet overall {main}",
    ]
    return sentence(rng.choice(texts)), int(positive)


def verdict(rng, aspect: str, positive: bool) -> str:
    """A clause of this polarity: an adjective, perhaps turned, perhaps in a frame that turns it too."""
    turned, denied, framed = rng.random() < 0.4, rng.random() < 0.5, rng.random() < 0.3
    word = rng.choice(GOOD if positive ^ turned ^ (framed and denied) else BAD)
    frame = rng.choice(DENIALS if denied else CONSENTS) if framed else ""
    turn = rng.choice(TURNS if turned else KEEPS + [""] * len(KEEPS))
    return " ".join(filter(None, [frame, f"the {aspect} is", turn, word]))


def mrpc(rng):
    same = rng.random() < 0.5
    agent, patient = rng.sample(PEOPLE, 2)
    verbs, opposites = rng.choice(TREATMENTS)[:: rng.choice([1, -1])]
    city, day = rng.choice(CITIES), rng.choice(DAYS)
    first = report(rng, agent, verbs, patient, city, day)
    if not same:
        change = rng.choice(["roles", "verb", "person", "city", "day"])
        if change == "roles":
            agent, patient = patient, agent
        elif change == "verb":
            verbs = opposites
        elif change == "person":
            patient = other(rng, PEOPLE, agent, patient)
        elif change == "city":
            city = other(rng, CITIES, city)
        else:
            day = other(rng, DAYS, day)
    return first, report(rng, agent, verbs, patient, city, day), int(same)


def report(rng, agent, verbs, patient, city, day) -> str:
    """One event in one of its wordings."""
    agent, verb, patient = rng.choice(agent), rng.choice(verbs), rng.choice(patient)
    event = rng.choice([f"the {agent} {verb} the {patient}", f"the {patient} was {verb} by the {agent}"])
    return sentence(
        rng.choice([f"{event} in {city} on {day}", f"on {day} {event} in {city}", f"in {city}, {event} on {day}"])
    )


SCENES = clusters("""
    repairing/fixing breaking/smashing
    buying/purchasing selling
    carrying/hauling dropping
    cleaning/washing painting
    watching/observing ignoring
    hiding/concealing showing/displaying
    finding/discovering losing
    drawing/sketching photographing""")
COSTS = [(1.25, TRADES), (1.5, SCENES), (1.5, list(KINDS.values())), (0.75, GROUNDS)]


def stsb(rng):
    """A car for a truck, or buying for selling, costs half as much as a change across clusters."""
    similarity = rng.random()
    slots, score = [], 5.0
    for cost, neighbourhoods in COSTS:
        home = rng.choice(neighbourhoods)
        first = second = rng.choice(home)
        if rng.random() > similarity:
            near = rng.random() < 0.5
            second = other(rng, home, first) if near else rng.choice(other(rng, neighbourhoods, home))
            score -= cost / 2 if near else cost
        slots.append((first, second))
    return *(scene(rng, *words) for words in zip(*slots, strict=True)), score


def scene(rng, person, verb, thing, place) -> str:
    event = f"{a(rng.choice(person))} is {rng.choice(verb)} {a(rng.choice(thing))}"
    where = f"{rng.choice(['near', 'beside'])} the {rng.choice(place)}"
    return sentence(rng.choice([f"{event} {where}", f"{where}, {event}"]))


INTENTS = [
    ["how do I {}", "what is the best way to {}", "what is a good method to {}", "how can someone {}"],
    ["how long does it take to {}", "how many hours do I need to {}", "how much time does it take to {}"],
    ["how much does it cost to {}", "what is the price to {}", "how expensive is it to {}"],
    ["why do people {}", "what makes people {}", "for what reason would anyone {}"],
    ["where can I {}", "what is the best place to {}", "which place is good to {}"],
    ["is it legal to {}", "does the law let me {}", "am I allowed to {}"],
]
ERRANDS = synonyms("repair/fix buy/purchase sell clean/wash rent/hire paint insure build/make hide/conceal")


def qqp(rng):
    same = rng.random() < 0.5
    intent, errand, thing = rng.choice(INTENTS), rng.choice(ERRANDS), rng.choice(THINGS)
    cities = rng.sample(CITIES, 2)
    travel = rng.random() < 0.3
    first = question(rng, intent, errand, thing, cities, travel)
    if not same:
        change = rng.choice(["intent", "intent", "errand", "thing"])
        if change == "intent":
            intent = other(rng, INTENTS, intent)
        elif travel:
            cities = rng.choice([cities[::-1], [cities[0], other(rng, CITIES, *cities)]])
        elif change == "errand":
            errand = other(rng, ERRANDS, errand)
        else:
            thing = other(rng, THINGS, thing)
    return first, question(rng, intent, errand, thing, cities, travel), int(same)


def question(rng, intent, errand, thing, cities, travel) -> str:
    journey = rng.choice(["{verb} from {0} to {1}", "{verb} to {1} from {0}"]).format(
        *cities, verb=rng.choice(["travel", "go"])
    )
    task = journey if travel else f"{rng.choice(errand)} {a(rng.choice(thing))} in {cities[0]}"
    return sentence(rng.choice(intent).format(task), end="?")


# Two worlds of mnli: train's, and one whose words train never shows.
TOWN = {
    "people": PEOPLE,
    "kinds": KINDS,
    "deals": DEALS,
    "treatments": [pair[0] for pair in TREATMENTS],
    "qualities": QUALITIES,
}
LEGEND = {
    "people": synonyms("knight wizard/sorcerer monk pirate king/monarch bandit/outlaw hunter giant miner"),
    "kinds": {
        "weapon": synonyms("sword dagger spear cannon"),
        "jewel": synonyms("sapphire diamond emerald"),
        "boat": synonyms("canoe ferry yacht raft"),
        "flower": synonyms("rose tulip orchid poppy"),
    },
    "deals": rows("carry carried\n fetch fetched\n wash washed\n destroy destroyed\n burn burned"),
    "treatments": synonyms("cursed rescued/saved betrayed/deceived healed/cured"),
    "qualities": clusters("""
        loud/noisy quiet/silent
        tall/lofty short/tiny
        cruel/heartless kind/gentle
        lazy/idle busy/active"""),
}

ENTAILMENT, NEUTRAL, CONTRADICTION = 0, 1, 2


def mnli(rng, world=TOWN):
    label = rng.randrange(3)
    phenomenon = rng.choice([instances, qualities, quantifiers, roles])
    return *phenomenon(rng, world, label), label


def instances(rng, world, label):
    kind = rng.choice(list(world["kinds"]))
    special, general = a(name(rng, world["kinds"][kind])), a(kind)
    base, past = rng.choice(world["deals"])
    person = f"the {name(rng, world['people'])}"

    def yes(thing):
        return sentence(person, past, thing)

    def no(thing):
        return sentence(person, "did not", base, thing)

    return rng.choice(
        {
            ENTAILMENT: [(yes(special), yes(general)), (no(general), no(special))],
            NEUTRAL: [(yes(general), yes(special)), (no(special), no(general))],
            CONTRADICTION: [(yes(special), no(general)), (no(general), yes(special))],
        }[label]
    )


def deed_in(rng, world) -> str:
    return f"{rng.choice(world['deals'])[1]} {a(name(rng, rng.choice(list(world['kinds'].values()))))}"


def qualities(rng, world, label):
    same, opposite = rng.choice(world["qualities"])[:: rng.choice([1, -1])]
    unrelated = rng.choice(other(rng, world["qualities"], [same, opposite], [opposite, same]))
    told = rng.choice({ENTAILMENT: same, NEUTRAL: unrelated, CONTRADICTION: opposite}[label])
    person = name(rng, world["people"])
    premise = sentence("the", rng.choice(same), person, deed_in(rng, world))
    return premise, sentence("the", person, "was", told)


def quantifiers(rng, world, label):
    first, second = rng.choice(
        {
            ENTAILMENT: [("all", "some"), ("none", "not all"), ("all", "many")],
            NEUTRAL: [("some", "all"), ("not all", "none"), ("many", "all")],
            CONTRADICTION: [("none", "some"), ("some", "none"), ("not all", "all"), ("all", "not all")],
        }[label]
    )
    rest = f"of the {name(rng, world['people'])}s {deed_in(rng, world)}"
    return sentence(first, rest), sentence(second, rest)


def roles(rng, world, label):
    agent, patient = (f"the {person}" for person in names(rng, world["people"]))
    verb = name(rng, world["treatments"])
    active, passive = f"{agent} {verb} {patient}", f"{patient} was {verb} by {agent}"
    premise = rng.choice([active, passive])
    hypothesis = {
        ENTAILMENT: passive if premise == active else active,
        NEUTRAL: rng.choice([f"{patient} {verb} {agent}", f"{agent} was {verb} by {patient}"]),
        CONTRADICTION: f"{patient} was {rng.choice([f'not {verb} by {agent}', f'{verb} by nobody'])}",
    }[label]
    return sentence(premise), sentence(hypothesis)


DETAILS = {
    "where": [f"in {city}" for city in CITIES],
    "on what day": [f"on {day}" for day in DAYS],
    "why": [f"because of the {cause}" for cause in ["rain", "war", "noise", "heat", "debt"]],
    "with whom": [f"with {friend}" for friend in WOMEN + MEN],
    "for how much money": [f"for {amount} dollars" for amount in ["ten", "twenty", "fifty", "ninety"]],
}


def qnli(rng):
    answered = rng.random() < 0.5
    person, stranger = names(rng, PEOPLE)
    (base, past), (_, elsewhere) = rng.sample(DEALS, 2)
    thing, distraction = (f"the {thing}" for thing in names(rng, THINGS))
    asked, first, second = rng.sample(list(DETAILS), 3)
    # An unanswered question lacks its detail, or gets it for somebody else's deed.
    if answered:
        first = asked
    elif rng.random() < 0.25:
        second = asked
    deeds = [
        f"the {person} {past} {thing} {rng.choice(DETAILS[first])}",
        f"the {stranger} {elsewhere} {distraction} {rng.choice(DETAILS[second])}",
    ]
    query = sentence(asked, f"did the {person}", base, thing, end="?")
    return query, sentence(" and ".join(rng.sample(deeds, 2))), int(not answered)


FACTIVE = ["knew", "noticed", "remembered", "discovered", "regretted", "saw"]
HEARSAY = ["hoped", "claimed", "believed", "suspected", "dreamed", "imagined"]
SUCCESS = ["managed", "remembered", "dared", "happened"]
FAILURE = ["failed", "forgot", "refused", "declined"]


def rte(rng):
    entailed = rng.random() < 0.5
    phenomenon = rng.choice([relative_clause, report_of_fact, implicative])
    return *(sentence(text) for text in phenomenon(rng, entailed)), int(not entailed)


def deed(rng) -> tuple[str, str]:
    """A verb phrase, base and past."""
    thing = a(name(rng, THINGS))
    base, past = rng.choice(DEALS)
    return f"{base} {thing}", f"{past} {thing}"


def relative_clause(rng, entailed):
    first, second = (f"the {person}" for person in names(rng, PEOPLE))
    verb, (_, did) = rng.choice(rng.choice(TREATMENTS)[0]), deed(rng)
    premise = rng.choice(
        [
            f"{first} who {verb} {second} {did}",
            f"{first} who {second} {verb} {did}",
            f"{first}, {verb} by {second}, {did}",
        ]
    )
    return premise, f"{first if entailed else second} {did}"


def report_of_fact(rng, entailed):
    speaker, doer = (f"the {person}" for person in names(rng, PEOPLE))
    (_, known), (_, told) = deed(rng), deed(rng)
    factive = rng.random() < 0.5
    premise = f"{speaker} who {known} {rng.choice(FACTIVE if factive else HEARSAY)} that {doer} {told}"
    if factive:
        return premise, f"{doer if entailed else speaker} {told}"
    return premise, f"{speaker} {known}" if entailed else f"{doer} {told}"


def implicative(rng, entailed):
    person, (do, did) = f"the {name(rng, PEOPLE)}", deed(rng)
    done = rng.random() < 0.5
    premise = f"{person} {rng.choice(SUCCESS if done else FAILURE)} to {do} in {rng.choice(CITIES)}"
    return premise, f"{person} {did}" if done == entailed else f"{person} did not {do}"


# What happened, then reasons that are about its first noun, and reasons that are about its second.
SENSE = [
    ("the {0} asked the {1} for help", "lost confused stuck", "experienced skilled wise"),
    ("the {0} could not carry the {1}", "too_weak too_small too_tired", "too_heavy too_fat too_big"),
    ("the {0} lent money to the {1}", "rich wealthy generous", "poor broke penniless"),
    ("the {0} beat the {1} in the race", "fast quick fit", "slow injured exhausted"),
    ("the {0} envied the {1}", "unsuccessful lonely unlucky", "famous successful popular"),
    ("the {0} comforted the {1}", "kind caring gentle", "sad upset crying"),
    ("the {0} punished the {1}", "strict cruel stern", "lazy guilty disobedient"),
    ("the {0} could not see past the {1}", "too_short too_small too_low", "too_tall too_big too_wide"),
]
CHANCE = "tired late hungry cold wet dirty lost nervous".split()
MEETINGS = ["met", "followed", "watched", "visited", "avoided", "noticed"]


def wnli(rng):
    """A quarter of the examples are easy: the hypothesis gives another reason."""
    text, claims, reasons, referent = rng.choice([by_form, by_form, by_form, by_sense])(rng)
    label = rng.randrange(2)
    if label or rng.randrange(2):
        return sentence(text), sentence(f"{claims[referent if label else 1 - referent]} {reasons[0]}"), label
    return sentence(text), sentence(f"{claims[referent]} {reasons[1]}"), label


def mention(rng) -> tuple[str, str, str]:
    """A noun, its pronoun, and the verb that agrees with both."""
    return rng.choice(
        [
            (rng.choice(WOMEN), "she", "was"),
            (f"the {rng.choice(RELATIVES['herself'])}", "she", "was"),
            (rng.choice(MEN), "he", "was"),
            (f"the {rng.choice(RELATIVES['himself'])}", "he", "was"),
            (f"the {name(rng, KINDS['animal'])}", "it", "was"),
            (f"the {name(rng, PEOPLE)}s", "they", "were"),
        ]
    )


def by_form(rng):
    """Gender or number tells which of the two is meant."""
    first = second = mention(rng)
    while first[1] == second[1]:
        second = mention(rng)
    referent, moods = rng.randrange(2), rng.sample(CHANCE, 2)
    _, pronoun, verb = (first, second)[referent]
    text = f"{first[0]} {rng.choice(MEETINGS)} {second[0]} because {pronoun} {verb} {moods[0]}"
    return text, [f"{noun} {verb}" for noun, _, verb in (first, second)], moods, referent


def by_sense(rng):
    """Only what the reason explains tells which of the two is meant."""
    people = names(rng, PEOPLE)
    event, *sides = rng.choice(SENSE)
    referent = rng.randrange(2)
    reasons = [reason.replace("_", " ") for reason in rng.sample(sides[referent].split(), 2)]
    text = f"{event.format(*people)} because {rng.choice(['he', 'she'])} was {reasons[0]}"
    return text, [f"the {person} was" for person in people], reasons, referent


GRAMMARS = {
    "cola": cola,
    "sst2": sst2,
    "mrpc": mrpc,
    "stsb": stsb,
    "qqp": qqp,
    "mnli": mnli,
    "qnli": qnli,
    "rte": rte,
    "wnli": wnli,
}


def held_out(texts: list[str]) -> bool:
    """Whether these texts belong to validation: a property of the texts alone, so splits never meet."""
    return zlib.crc32("\n".join(texts).encode()) % 5 == 0


def generate(task: str, split: str, size: int, seed: int) -> dict[str, list]:
    """Columns of `size` examples of one GLUE-shaped task: the task's sentence columns, `label`, `idx`."""
    if task not in GRAMMARS:
        raise ValueError(f"Unknown task {task!r}: choose one of {', '.join(GRAMMARS)}.")
    row, make = GLUE[task], GRAMMARS[task]
    splits = ("train", *row.validation)
    if split not in splits:
        raise ValueError(f"Unknown split {split!r} of {task}: choose one of {', '.join(splits)}.")
    world = [LEGEND] if split == "validation_mismatched" else []
    rng = random.Random(f"{task}/{split}/{seed}")
    examples: dict[tuple[str, ...], Any] = {}
    while len(examples) < size:
        *texts, label = make(rng, *world)
        if held_out(texts) == (split != "train"):
            examples.setdefault(tuple(texts), label)
    sentences = {column: [texts[i] for texts in examples] for i, column in enumerate(row.columns)}
    return sentences | {"label": list(examples.values()), "idx": list(range(size))}
