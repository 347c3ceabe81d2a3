"""What the web page says, in each of its languages.

Knows words alone.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """The page's words. Braces are filled in: an individual, a file's name, a number."""

    language: str
    title: str
    lead: str
    photographs: str
    model: str
    identify: str
    looking: str
    choose_first: str
    unseen: str
    seen: str
    nobody: str
    yours: str
    candidate: str
    distance: str
    probability: str
    probably_new: str
    confirm: str
    reject: str
    name_of_new: str
    enrol: str
    enrolled: str
    already: str
    rejected: str
    struck: str
    name_it: str
    examples: str
    example: str
    key_wanted: str
    key: str
    enter: str
    answered_by: str
    for_programs: str
    gone: str


ENGLISH = Words(
    language="English",
    title="Which whale is this?",
    lead="Drop, choose or paste photographs. You see whom each may show, beside the photograph that it resembles: "
    "compare them before you believe a name.",
    photographs="Photographs",
    model="Model",
    identify="Identify",
    looking="Looking …",
    choose_first="Choose a photograph first.",
    unseen="Probably a new individual",
    seen="Probably known: {}",
    nobody="Nobody is left to compare with.",
    yours="Your photograph {}",
    candidate="{rank}. {individual}",
    distance="distance {}",
    probability="probability {}",
    probably_new="Probability that it is new: {}",
    confirm="Yes, this is {}",
    reject="No, not {}",
    name_of_new="A name for a new individual",
    enrol="Enrol as new",
    enrolled="{filename} is enrolled as {individual}: the next question finds it.",
    already="{filename} was enrolled as {individual} already.",
    rejected="{individual} is struck off this list; nothing was changed in the gallery.",
    struck="You say: not {}",
    name_it="Type a name for the new individual first.",
    examples="Examples of this model, to try",
    example="{} of the gallery",
    key_wanted="This service wants a key. Whoever runs it knows the key.",
    key="Key",
    enter="Enter",
    answered_by="Answered by {}.",
    for_programs="For programs: /docs",
    gone="That photograph is not here any more. Choose it again.",
)

RUSSIAN = Words(
    language="Русский",
    title="Какой это кит?",
    lead="Перетащите, выберите или вставьте фотографии. Для каждой будет показано, кто на ней может быть, рядом с "
    "похожим снимком: сравните их, прежде чем верить имени.",
    photographs="Фотографии",
    model="Модель",
    identify="Определить",
    looking="Ищем …",
    choose_first="Сначала выберите фотографию.",
    unseen="Вероятно, новая особь",
    seen="Вероятно, известная особь: {}",
    nobody="Сравнивать больше не с кем.",
    yours="Ваша фотография {}",
    candidate="{rank}. {individual}",
    distance="расстояние {}",
    probability="вероятность {}",
    probably_new="Вероятность того, что она новая: {}",
    confirm="Да, это {}",
    reject="Нет, не {}",
    name_of_new="Имя для новой особи",
    enrol="Добавить как новую",
    enrolled="Снимок {filename} добавлен к особи {individual}: следующий запрос его найдёт.",
    already="Снимок {filename} уже был у особи {individual}.",
    rejected="{individual}: вычеркнуто из этого списка; в галерее ничего не изменилось.",
    struck="Вы сказали: не {}",
    name_it="Сначала введите имя для новой особи.",
    examples="Примеры этой модели",
    example="{} из галереи",
    key_wanted="Этому сервису нужен ключ. Его знает тот, кто запустил сервис.",
    key="Ключ",
    enter="Войти",
    answered_by="Ответила модель {}.",
    for_programs="Для программ: /docs",
    gone="Этой фотографии здесь больше нет. Выберите её снова.",
)

LANGUAGES = {"en": ENGLISH, "ru": RUSSIAN}


def preferred(accept: str) -> str:
    """The first language of an `Accept-Language` header that the page speaks; English where it speaks none.

    >>> preferred("ru-RU,ru;q=0.9,en;q=0.8"), preferred("de,en;q=0.5"), preferred("")
    ('ru', 'en', 'en')
    """
    asked = (part.partition(";")[0].strip().lower()[:2] for part in accept.split(","))
    return next((language for language in asked if language in LANGUAGES), "en")
